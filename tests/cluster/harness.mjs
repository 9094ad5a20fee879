// A whole cluster on loopback: a real etcd, coordinators, shards - each a process that a test can kill and start again.
import { spawn } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

const binary = process.env.KITH ?? new URL('../../build/release/kith', import.meta.url).pathname;

export function freePort() {
  return new Promise((resolve) => {
    const server = createServer().listen(0, '127.0.0.1', () => {
      const { port } = server.address();
      server.close(() => resolve(port));
    });
  });
}

// A child whose output is kept; `until(pattern)` resolves at the line that matches, rejects when the process ends before it.
export class Process {
  constructor(name, command, args) {
    Object.assign(this, { name, command, args, said: '', waiters: [] });
    this.start();
  }
  start() {
    this.said = '';
    this.child = spawn(this.command, this.args, { stdio: ['ignore', 'pipe', 'pipe'] });
    this.ended = new Promise((resolve) => this.child.once('exit', (code, signal) => resolve({ code, signal })));
    const hear = (chunk) => {
      this.said = (this.said + chunk).slice(-200000);
      for (const waiter of this.waiters.splice(0)) waiter();
    };
    this.child.stdout.on('data', hear);
    this.child.stderr.on('data', hear);
    this.ended.then(() => hear(''));
  }
  async until(pattern) {
    for (;;) {
      const found = pattern.exec(this.said);
      if (found) return found;
      if (this.child.exitCode !== null || this.child.signalCode !== null) throw new Error(`${this.name} ended before it said ${pattern}: ${this.said.slice(-2000)}`);
      await new Promise((resolve) => this.waiters.push(resolve));
    }
  }
  async kill(signal = 'SIGKILL') {
    this.child.kill(signal);
    return this.ended;
  }
}

export class Cluster {
  static async start({ shards = 3, coordinators = 1 } = {}) {
    const cluster = new Cluster();
    cluster.dir = mkdtempSync(join(tmpdir(), 'kith-cluster-'));
    const [client, peer] = [await freePort(), await freePort()];
    cluster.etcdUrl = `http://127.0.0.1:${client}`;
    cluster.etcd = new Process('etcd', 'etcd', ['--name', 'e', '--data-dir', join(cluster.dir, 'etcd'), '--listen-client-urls', cluster.etcdUrl,
      '--advertise-client-urls', cluster.etcdUrl, '--listen-peer-urls', `http://127.0.0.1:${peer}`, '--initial-advertise-peer-urls', `http://127.0.0.1:${peer}`,
      '--initial-cluster', `e=http://127.0.0.1:${peer}`]);
    await cluster.etcd.until(/ready to serve client requests|serving (insecure )?client requests/i);
    cluster.coordinators = [];
    for (let i = 0; i < coordinators; i++) {
      const port = await freePort();
      const node = new Process(`coordinator-${i}`, binary, ['coordinator', '--etcd', cluster.etcdUrl, '--cluster', 'test', '--listen', `127.0.0.1:${port}`]);
      node.url = `http://127.0.0.1:${port}`;
      await node.until(/http:\/\//);
      cluster.coordinators.push(node);
    }
    cluster.shards = [];
    for (let i = 0; i < shards; i++) {
      const port = await freePort();
      cluster.shards.push(new Process(`shard-${i}`, binary, ['shard', '--etcd', cluster.etcdUrl, '--cluster', 'test', '--data', join(cluster.dir, `shard-${i}`), '--listen', `127.0.0.1:${port}`, '--metrics', '127.0.0.1:0']));
      await cluster.shards[i].until(/ready/i);
    }
    cluster.url = cluster.coordinators[0].url;
    await cluster.poll('readyz', async () => (await fetch(`${cluster.url}/readyz`)).status === 200);
    return cluster;
  }
  // Asks again and again until it holds; every try is an answer of the system, and the wait has an end.
  async poll(what, holds, timeoutMs = 30000) {
    const end = Date.now() + timeoutMs;
    for (;;) {
      if (await holds().catch(() => false)) return;
      if (Date.now() > end) throw new Error(`waited ${timeoutMs} ms for: ${what}`);
      await new Promise((resolve) => setTimeout(resolve, 20));
    }
  }
  send(method, path, body, url = this.url) {
    return fetch(url + path, { method, headers: { 'content-type': 'application/json' }, body: body === undefined ? undefined : JSON.stringify(body) });
  }
  async ask(method, path, body, url) {
    const answer = await this.send(method, path, body, url);
    const json = await answer.json();
    if (answer.status !== 200) throw Object.assign(new Error(`${method} ${path}: ${answer.status} ${JSON.stringify(json)}`), { status: answer.status, json });
    return json;
  }
  async stop() {
    for (const node of [...(this.coordinators ?? []), ...(this.shards ?? []), this.etcd]) if (node?.child.exitCode === null) await node.kill('SIGKILL');
    rmSync(this.dir, { recursive: true, force: true });
  }
}

// Per id: what was acknowledged last and what was tried last. Read back, a value must lie between the two.
export class WriteOracle {
  constructor() { this.ids = new Map(); }
  next(id) {
    const entry = this.ids.get(id) ?? { acked: 0, tried: 0, deletedAt: new Set() };
    entry.tried++;
    this.ids.set(id, entry);
    return entry.tried;
  }
  acked(id, value) { const entry = this.ids.get(id); entry.acked = Math.max(entry.acked, value); }
  // value: the payload's number, or undefined when the point is not there.
  problem(id, value) {
    const { acked, tried } = this.ids.get(id);
    if (value === undefined) return acked === 0 ? null : `point ${id}: acknowledged version ${acked} is gone`;
    if (value < acked) return `point ${id}: version ${value}, but ${acked} was acknowledged`;
    if (value > tried) return `point ${id}: version ${value}, but only ${tried} were tried`;
    return null;
  }
}
