/* The verbs that talk to a running Kith over its HTTP API. Each is one entry of verbs.c and follows
 * the contract of verbs.h. Exit status 3: import finished, but left some lines out. */
#ifndef COMMANDS_H
#define COMMANDS_H

int command_status(int argc, char **argv);
int command_collection(int argc, char **argv);
int command_import(int argc, char **argv);
int command_export(int argc, char **argv);
int command_search(int argc, char **argv);
int command_count(int argc, char **argv);
int command_get(int argc, char **argv);
int command_delete(int argc, char **argv);
int command_node(int argc, char **argv);
int command_plan(int argc, char **argv);
int command_version(int argc, char **argv);
int command_help(int argc, char **argv);

#endif
