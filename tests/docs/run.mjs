// See `run` beside this file.
import { spawn, spawnSync } from 'node:child_process';
import { mkdtempSync, readFileSync, readdirSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

const root = process.argv[2];
const env = { ...process.env, NO_COLOR: '1', XDG_STATE_HOME: mkdtempSync(join(tmpdir(), 'kith-state-')), PATH: `${join(root, 'build/release')}:${process.env.PATH}` };
const files = ['README.md', ...readdirSync(join(root, 'docs')).filter((f) => f.endsWith('.md')).sort().map((f) => `docs/${f}`), 'demo/CREDITS.md', 'bench/README.md'];

function blocks(text) {
  const found = [];
  let open = null;
  text.split('\n').forEach((line, i) => {
    const fence = /^```\s*(.*)$/.exec(line);
    if (!fence) { open?.lines.push(line); return; }
    if (open) { found.push(open); open = null; } else open = { info: fence[1].trim(), line: i + 1, lines: [] };
  });
  if (open) throw new Error(`a block that begins in line ${open.line} is not closed`);
  return found.map((b) => ({ ...b, code: b.lines.join('\n') }));
}

// Waits until the process says that it listens, or ends.
function background(code, cwd) {
  const child = spawn('bash', ['-c', `exec env ${code}`], { cwd, env, stdio: ['ignore', 'pipe', 'pipe'] });
  let said = '';
  return new Promise((resolve, reject) => {
    const hear = (chunk) => { said += chunk; if (/http:\/\/|ready/i.test(said)) resolve(child); };
    child.stdout.on('data', hear);
    child.stderr.on('data', hear);
    child.once('exit', (status) => reject(new Error(`ended with ${status}: ${said}`)));
  });
}

let ran = 0;
const failures = [];
for (const file of files) {
  let text;
  try { text = readFileSync(join(root, file), 'utf8'); } catch { failures.push(`${file}: is missing`); continue; }
  // A folder of links to the tree, so that data folders made by the commands stay out of it.
  const cwd = mkdtempSync(join(tmpdir(), 'kith-docs-'));
  for (const name of ['build', 'demo', 'deploy', 'bench', 'CMakeLists.txt', 'CMakePresets.json']) symlinkSync(join(root, name), join(cwd, name));
  symlinkSync(join(root, 'tests/client/node_modules'), join(cwd, 'real_modules'));
  spawnSync('mkdir', ['-p', join(cwd, 'node_modules/@qdrant')]);
  symlinkSync(join(root, 'tests/client/node_modules/client-1.19'), join(cwd, 'node_modules/@qdrant/js-client-rest'));
  const children = [];
  for (const block of blocks(text)) {
    const [language, mode] = block.info.split(/\s+/);
    if (!['sh', 'js'].includes(language) || mode === 'self') continue;
    const place = `${file}:${block.line}`;
    try {
      if (mode === 'background') { children.push(await background(block.code, cwd)); ran++; continue; }
      let command = ['bash', '-euo', 'pipefail', '-c', block.code];
      if (language === 'js') {
        writeFileSync(join(cwd, 'example.mjs'), block.code);
        command = [process.execPath, '--preserve-symlinks', 'example.mjs'];
        // Packages the client needs, found beside it.
        for (const dep of readdirSync(join(cwd, 'real_modules'))) if (!dep.startsWith('.') && dep !== '@qdrant') { try { symlinkSync(join(root, 'tests/client/node_modules', dep), join(cwd, 'node_modules', dep)); } catch { /* there already */ } }
        try { symlinkSync(join(root, 'tests/client/node_modules/@qdrant/openapi-typescript-fetch'), join(cwd, 'node_modules/@qdrant/openapi-typescript-fetch')); } catch { /* there already */ }
      }
      const result = spawnSync(command[0], command.slice(1), { cwd, encoding: 'utf8', timeout: 300000, env });
      ran++;
      const refused = /"status":\s*\{"error"/.exec(result.stdout ?? '');
      if (result.status !== 0 || refused) failures.push(`${place}: ${refused ? 'the answer is an error' : `exit ${result.status}`}\n${block.code}\n${result.stdout}\n${result.stderr}`);
    } catch (error) { failures.push(`${place}: ${error.message}`); }
  }
  for (const child of children.reverse()) {
    child.removeAllListeners('exit');
    const gone = new Promise((resolve) => child.once('exit', resolve));
    child.kill('SIGTERM');
    await gone;
  }
  rmSync(cwd, { recursive: true, force: true });
}
console.log(`${ran} blocks ran`);
for (const failure of failures) console.log(`FAILED ${failure}`);
process.exit(failures.length > 0 || ran === 0 ? 1 : 0);
