// Starts a real Kith and puts a recording proxy before it: what the clients send and get is what is judged.
import { spawn } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import http from 'node:http';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { check } from './schema.mjs';

const binary = process.env.KITH ?? new URL('../../build/release/kith', import.meta.url).pathname;

// Resolves when the process printed its address; rejects when it ends before. fileBlocks: no file gets larger than so many
// times 512 bytes, which counts as a full disk.
export function startKith(args = [], dir = mkdtempSync(join(tmpdir(), 'kith-client-')), { fileBlocks = 'unlimited' } = {}) {
  const child = spawn('sh', ['-c', `ulimit -f ${fileBlocks} && exec "$0" "$@"`, binary, 'up', '--data', dir, '--listen', '127.0.0.1:0', ...args], { stdio: ['ignore', 'pipe', 'pipe'] });
  let said = '';
  const ended = new Promise((resolve) => child.once('exit', (code, signal) => resolve({ code, signal })));
  return new Promise((resolve, reject) => {
    const listen = (chunk) => {
      said += chunk;
      const url = /http:\/\/127\.0\.0\.1:\d+/.exec(said)?.[0];
      if (url) resolve({ url, dir, child, ended, said: () => said,
        stop: async (signal = 'SIGTERM') => { child.kill(signal); return ended; },
        remove: () => rmSync(dir, { recursive: true, force: true }) });
    };
    child.stdout.on('data', listen);
    child.stderr.on('data', listen);
    ended.then((end) => reject(new Error(`kith ended early (${JSON.stringify(end)}): ${said}`)));
  });
}

// Forwards to `target`, validates each JSON answer against the specification, remembers which operations were seen.
export function startProxy(target) {
  const agent = new http.Agent({ keepAlive: true });
  const seen = new Set();
  const problems = [];
  const server = http.createServer((request, response) => {
    const chunks = [];
    request.on('data', (chunk) => chunks.push(chunk));
    request.on('end', () => {
      const body = Buffer.concat(chunks);
      const onward = http.request(target + request.url, { method: request.method, agent,
        headers: { 'content-type': request.headers['content-type'] ?? 'application/json', 'content-length': body.length } }, (answer) => {
        const parts = [];
        answer.on('data', (part) => parts.push(part));
        answer.on('end', () => {
          const text = Buffer.concat(parts).toString();
          judge(request.method, request.url.split('?')[0], answer, text);
          response.writeHead(answer.statusCode, answer.statusMessage, answer.headers);
          response.end(text);
        });
      });
      onward.on('error', (error) => response.destroy(error));
      onward.end(body);
    });
  });
  function judge(method, path, answer, text) {
    const what = `${method} ${path} -> ${answer.statusCode}`;
    if (!/json/.test(answer.headers['content-type'] ?? '')) return;
    let body;
    try { body = JSON.parse(text); } catch { problems.push(`${what}: not JSON: ${text.slice(0, 200)}`); return; }
    const verdict = check(method, path, answer.statusCode, body);
    if (verdict.errors) problems.push(`${what}: ${verdict.errors}: ${text.slice(0, 300)}`);
    if (verdict.template && answer.statusCode < 300) seen.add(verdict.template);
  }
  return new Promise((resolve) => server.listen(0, '127.0.0.1', () => resolve({
    url: `http://127.0.0.1:${server.address().port}`, seen, problems,
    close: () => new Promise((done) => { agent.destroy(); server.closeAllConnections(); server.close(done); }) })));
}

// A small seeded generator (mulberry32), so that a failing run can be repeated: SEED=n.
export function random(seed) {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = Math.imul(state ^ (state >>> 15), 1 | state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
  };
}
