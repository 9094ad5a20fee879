#!/usr/bin/env node
// Peers of the `ann` benchmark that come as npm packages: usearch, zvec. One query at a time, one
// thread, warm; the same files, the same queries (tuning's are left out), the same JSON lines as
// bench_ann. Their calls go through Node.js: a few microseconds a query, measured by an empty call.
//
// usage: bench/peer_npm.mjs FOLDER ROWS QUERIES TUNE usearch|zvec...
import fs from 'node:fs';
import { createRequire } from 'node:module';
import os from 'node:os';
import path from 'node:path';
import { packages } from './data/lib.mjs';

const PACKAGES = ['usearch@2.25.3', '@zvec/zvec@0.7.0'];
const K = 10;
const TRUTH_K = 100;
const TIE = 1e-6;
const SLICE_MS = 1500;

const [dir, rowsText, queriesText, tuneText, ...names] = process.argv.slice(2);
if (!names.length) {
  console.error('usage: bench/peer_npm.mjs FOLDER ROWS QUERIES TUNE usearch|zvec...');
  process.exit(2);
}
const about = JSON.parse(fs.readFileSync(path.join(dir, 'set.json'), 'utf8'));
const n = Math.min(Number(rowsText) || about.base, about.base);
const nQueries = Math.min(Number(queriesText) || about.queries, about.queries);
const tune = Number(tuneText);
const { dim } = about;

const floats = (file, count) => {
  const bytes = new Uint8Array(count * 4);
  const fd = fs.openSync(path.join(dir, file), 'r');
  for (let at = 0; at < bytes.length; ) at += fs.readSync(fd, bytes, at, Math.min(1 << 28, bytes.length - at), at);
  fs.closeSync(fd);
  return new Float32Array(bytes.buffer);
};
const base = floats('base.f32', n * dim);
const queries = floats('query.f32', nQueries * dim);
const truthFloats = floats(`truth-${n}-${nQueries}.bin`, nQueries * TRUTH_K * 2);
const truthRows = new Uint32Array(truthFloats.buffer, 0, nQueries * TRUTH_K);
const truthScores = truthFloats.subarray(nQueries * TRUTH_K);
const row = (i) => base.subarray(i * dim, (i + 1) * dim);
const query = (i) => queries.subarray(i * dim, (i + 1) * dim);

function hits(q, found) {
  const limit = truthScores[q * TRUTH_K + K - 1] - TIE;
  let count = 0;
  for (let i = 0; i < TRUTH_K && truthScores[q * TRUTH_K + i] >= limit; i++) count += found.includes(truthRows[q * TRUTH_K + i]) ? 1 : 0;
  return Math.min(count, K);
}

function tell(line) {
  process.stdout.write(`${JSON.stringify({ bench: 'ann', data: path.basename(dir), rows: n, dim, ...line })}\n`);
}

function built(engine, build, start, before) {
  const seconds = (Date.now() - start) / 1000;
  const bytes = Math.round((process.memoryUsage().rss - before) / n);
  console.error(`${engine.padEnd(11)} ${build.padEnd(30)} built in ${seconds.toFixed(1)} s, ${bytes} bytes a point resident`);
  tell({ case: 'build', engine, build, threads: 2, value: seconds, unit: 's', bytes_per_point: bytes });
}

// search(q) gives the numbers of the rows found.
function measure(engine, build, setting, search) {
  let got = 0;
  for (let q = tune; q < nQueries; q++) got += hits(q, search(q));
  const rates = [];
  for (let round = 0, q = tune; round < 3; round++) {
    const cpu = process.cpuUsage();
    const end = Date.now() + SLICE_MS;
    let done = 0;
    while (Date.now() < end) {
      search(q);
      done++;
      q = q + 1 < nQueries ? q + 1 : tune;
    }
    const used = process.cpuUsage(cpu);
    rates.push((done * 1e6) / (used.user + used.system));
  }
  const recall = got / ((nQueries - tune) * K);
  const value = rates.sort((a, b) => a - b)[1];
  console.error(`${engine.padEnd(11)} ${build.padEnd(30)} ${setting.padEnd(26)} ${recall.toFixed(4)} ${value.toFixed(0).padStart(10)}`);
  tell({ case: 'curve', engine, build, setting, recall: Number(recall.toFixed(4)), value: Number(value.toFixed(1)), unit: 'queries/s' });
}

const modules = packages('peers', PACKAGES, 'Apache-2.0');
const require = createRequire(path.join(modules, 'x'));
const temp = fs.mkdtempSync(path.join(process.env.KITH_BENCH_DIR || os.tmpdir(), 'kith-bench-'));

// connectivity 16, expansion_add 200: as hnswlib's M and efConstruction. How hard it looks is fixed
// when an index is opened.
function usearch() {
  const { Index, MetricKind, ScalarKind } = require('usearch');
  for (const quantization of [ScalarKind.F32, ScalarKind.I8]) {
    const options = { dimensions: dim, metric: MetricKind.IP, quantization, connectivity: 16, expansion_add: 200 };
    const build = `${quantization} M16 efC200`;
    const before = process.memoryUsage().rss;
    const start = Date.now();
    const index = new Index({ ...options, expansion_search: 64 });
    const step = 10000;
    for (let at = 0; at < n; at += step) {
      const end = Math.min(n, at + step);
      const keys = BigUint64Array.from({ length: end - at }, (_, i) => BigInt(at + i));
      index.add(keys, base.subarray(at * dim, end * dim), 2);
    }
    built('usearch', build, start, before);
    const file = path.join(temp, 'index');
    index.save(file);
    for (const ef of [32, 48, 64, 96, 128, 192, 256, 384]) {
      const opened = new Index({ ...options, expansion_search: ef });
      opened.load(file);
      measure('usearch', build, `expansion_search ${ef}`, (q) => Array.from(opened.search(query(q), K, 1).keys, Number));
    }
    fs.rmSync(file);
  }
}

function zvec() {
  const z = require('@zvec/zvec');
  z.ZVecInitialize({ logLevel: z.ZVecLogLevel.ERROR, queryThreads: 1, optimizeThreads: 2 });
  const lists = Math.max(256, 2 ** Math.round(Math.log2(2 * Math.sqrt(n))));
  const ip = { metricType: z.ZVecMetricType.IP };
  const kinds = [
    {
      build: `IVF_RABITQ nList ${lists}`,
      index: { ...ip, indexType: z.ZVecIndexType.IVF_RABITQ, nList: lists },
      settings: [8, 16, 24, 32, 48, 64, 96, 128, 192].map((nprobe) => ({ nprobe })),
    },
    {
      build: 'HNSW int8 M16 efC200',
      index: { ...ip, indexType: z.ZVecIndexType.HNSW, m: 16, efConstruction: 200, quantizeType: z.ZVecQuantizeType.INT8 },
      settings: [32, 64, 96, 128, 192, 256, 384].map((ef) => ({ ef })),
    },
  ];
  kinds.forEach(({ build, index, settings }, i) => {
    const schema = new z.ZVecCollectionSchema({
      name: 'bench',
      vectors: { name: 'v', dataType: z.ZVecDataType.VECTOR_FP32, dimension: dim, indexParams: index },
    });
    const before = process.memoryUsage().rss;
    const start = Date.now();
    const collection = z.ZVecCreateAndOpen(path.join(temp, `zvec-${i}`), schema);
    for (let at = 0; at < n; at += 1000) {
      const docs = [];
      for (let j = at; j < Math.min(n, at + 1000); j++) docs.push({ id: String(j), vectors: { v: row(j) } });
      const bad = collection.insertSync(docs).find((status) => !status.ok);
      if (bad) throw new Error(`zvec: ${bad.message}`);
    }
    collection.optimizeSync({ concurrency: 2 });
    built('zvec', build, start, before);
    for (const setting of settings) {
      const params = { indexType: index.indexType, ...setting };
      const [[key, value]] = Object.entries(setting);
      measure('zvec', build, `${key} ${value}`, (q) =>
        collection.querySync({ fieldName: 'v', vector: query(q), topk: K, params, outputFields: [] }).map((doc) => Number(doc.id)));
    }
    collection.closeSync();
  });
}

try {
  for (const name of names) ({ usearch, zvec })[name]();
} finally {
  fs.rmSync(temp, { recursive: true, force: true });
}
