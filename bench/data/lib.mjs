// What the scripts of this folder share: the cache, pinned packages, a seeded order, files of f32.
//
// A data set is a folder of the cache with
//   base.f32, query.f32   rows of little-endian f32, every row of length 1
//   set.json              { name, dim, base, queries, metric, seed, source, licence }
// and, made by bench_truth, truth.bin (see bench/ann_data.h). set.json is written last: a folder that
// has it is complete.
import { execFileSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';

export const SEED = 20231;

export const cache = path.join(process.env.XDG_CACHE_HOME || path.join(os.homedir(), '.cache'), 'kith', 'bench');

export function folder(...names) {
  const dir = path.join(cache, ...names);
  fs.mkdirSync(dir, { recursive: true });
  return dir;
}

export function say(text) {
  process.stderr.write(`${text}\n`);
}

// One line that is written over on a terminal, and now and then a line of its own elsewhere.
let last = 0;
export function progress(what, done, total) {
  const now = Date.now();
  const tty = process.stderr.isTTY;
  if (done < total && now - last < (tty ? 500 : 30000)) return;
  last = now;
  const text = `${what}: ${done.toLocaleString('en')} of ${total.toLocaleString('en')}`;
  process.stderr.write(tty ? `\r${text}\x1b[K${done < total ? '' : '\n'}` : `${text}\n`);
}

export function check(what, found, wanted) {
  if (found !== wanted) throw new Error(`${what}: found ${found}, expected ${wanted}`);
}

export function sha256(file) {
  const hash = createHash('sha256');
  const fd = fs.openSync(file, 'r');
  const chunk = Buffer.alloc(4 << 20);
  for (let n; (n = fs.readSync(fd, chunk, 0, chunk.length, null)) > 0; ) hash.update(chunk.subarray(0, n));
  fs.closeSync(fd);
  return hash.digest('hex');
}

// Installs npm packages (exact versions) into a folder of the cache, once; gives its node_modules.
export function packages(name, specs, licence) {
  const dir = folder('npm', name);
  const mark = path.join(dir, 'installed');
  if (!fs.existsSync(mark) || fs.readFileSync(mark, 'utf8') !== specs.join(' ')) {
    say(`fetching ${specs.join(', ')} (licence: ${licence})`);
    fs.writeFileSync(path.join(dir, 'package.json'), '{"private":true}');
    execFileSync('npm', ['install', '--silent', '--ignore-scripts', '--no-audit', '--no-fund', '--save-exact', ...specs], {
      cwd: dir,
      stdio: ['ignore', 'ignore', 'inherit'],
    });
    fs.writeFileSync(mark, specs.join(' '));
  }
  return path.join(dir, 'node_modules');
}

// sfc32 of PractRand: the same order on every machine.
export function random(seed) {
  let [a, b, c, d] = [0x9e3779b9, 0x243f6a88, seed | 0, 1];
  const next = () => {
    const t = (((a + b) | 0) + d) | 0;
    d = (d + 1) | 0;
    a = b ^ (b >>> 9);
    b = (c + (c << 3)) | 0;
    c = (((c << 21) | (c >>> 11)) + t) | 0;
    return t >>> 0;
  };
  for (let i = 0; i < 20; i++) next();
  return next;
}

// The numbers below n in a seeded order.
export function shuffled(n, seed) {
  const next = random(seed);
  const order = Uint32Array.from({ length: n }, (_, i) => i);
  for (let i = n - 1; i > 0; i--) {
    const j = Math.floor((next() / 4294967296) * (i + 1));
    [order[i], order[j]] = [order[j], order[i]];
  }
  return order;
}

export function normalise(row) {
  let sum = 0;
  for (const x of row) sum += x * x;
  const scale = sum > 0 ? 1 / Math.sqrt(sum) : 0;
  for (let i = 0; i < row.length; i++) row[i] *= scale;
  return sum > 0;
}

// Writes the files of a set: rows (a Float32Array of n * dim) in the given order, the first
// `queries` of it as queries.
export function writeSet(dir, about, rows, order) {
  const { dim, queries } = about;
  fs.mkdirSync(dir, { recursive: true });
  const write = (file, from, to) => {
    const fd = fs.openSync(path.join(dir, `${file}.part`), 'w');
    for (let at = from; at < to; at += 4096) {
      const end = Math.min(to, at + 4096);
      const block = new Float32Array((end - at) * dim);
      for (let i = at; i < end; i++) block.set(rows.subarray(order[i] * dim, (order[i] + 1) * dim), (i - at) * dim);
      fs.writeSync(fd, Buffer.from(block.buffer));
    }
    fs.closeSync(fd);
    fs.renameSync(path.join(dir, `${file}.part`), path.join(dir, file));
  };
  write('query.f32', 0, queries);
  write('base.f32', queries, order.length);
  finishSet(dir, { ...about, base: order.length - queries });
}

export function finishSet(dir, about) {
  fs.writeFileSync(path.join(dir, 'set.json'), `${JSON.stringify(about)}\n`);
  say(`${about.name}: ${about.base.toLocaleString('en')} rows and ${about.queries.toLocaleString('en')} queries of ${about.dim} numbers in ${dir}`);
}
