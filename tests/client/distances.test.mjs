// Both datatypes, all four distances, 1, 3 and 7 slices: scores and order against brute force over the stored vectors.
import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { compareIds } from './oracle.mjs';
import { random, startKith } from './harness.mjs';

const seed = Number(process.env.SEED ?? Date.now() % 1e9);
console.log(`SEED=${seed}`);
const next = random(seed);
const DIM = 37; // no multiple of any vector register
const N = 500;
const vector = () => Array.from({ length: DIM }, () => next() * 4 - 2);
const dot = (a, b) => a.reduce((sum, x, i) => sum + x * b[i], 0);
const distances = {
  Cosine: { score: (q, v) => dot(q, v) / Math.sqrt(dot(q, q) * dot(v, v)), best: -1 },
  Dot: { score: dot, best: -1 },
  Euclid: { score: (q, v) => Math.hypot(...q.map((x, i) => x - v[i])), best: 1 },
  Manhattan: { score: (q, v) => q.reduce((sum, x, i) => sum + Math.abs(x - v[i]), 0), best: 1 },
};

let kith;
async function api(method, path, body) {
  const answer = await fetch(`${kith.url}/collections/${path}`, { method, headers: { 'content-type': 'application/json' }, body: JSON.stringify(body) });
  const said = await answer.json();
  assert.equal(answer.status, 200, `${method} ${path}: ${said.status?.error}`);
  return said.result;
}

before(async () => { kith = await startKith(); });
after(async () => {
  const end = await kith?.stop();
  kith?.remove();
  assert.deepEqual(end, { code: 0, signal: null });
});

for (const datatype of ['float32', 'float16'])
  for (const [distance, { score, best }] of Object.entries(distances))
    for (const slices of [1, 3, 7])
      test(`${datatype}, ${distance}, ${slices} slices`, async () => {
        const name = `${datatype}-${distance}-${slices}`;
        await api('PUT', name, { vectors: { size: DIM, distance, datatype }, shard_number: slices });
        const points = Array.from({ length: N }, (_, id) => ({ id, vector: vector(), payload: { odd: id % 2 === 1 } }));
        await api('PUT', `${name}/points?wait=true`, { points });
        // A page of the largest size, so that also this limit is what the documentation says.
        const stored = (await api('POST', `${name}/points/scroll`, { limit: 10000, with_vector: true })).points;
        assert.equal(stored.length, N);
        for (const point of stored) {
          const sent = points[point.id].vector;
          const length = distance === 'Cosine' ? Math.sqrt(dot(sent, sent)) : 1;
          const error = Math.max(...sent.map((x, i) => Math.abs(x / length - point.vector[i])));
          assert.ok(error <= (datatype === 'float16' ? 1e-3 : 1e-6), `point ${point.id} came back ${error} away`);
        }
        for (let round = 0; round < 10; round++) {
          const query = vector();
          const odd = round % 2 === 1;
          const want = stored.filter((point) => !odd || point.payload.odd).map((point) => ({ id: point.id, score: score(query, point.vector) }))
            .sort((a, b) => best * (a.score - b.score) || compareIds(a.id, b.id)).slice(0, 20);
          const got = (await api('POST', `${name}/points/query`, { query, limit: 20, filter: odd ? { must: [{ key: 'odd', match: { value: true } }] } : undefined })).points;
          assert.equal(got.length, want.length);
          // Half floats of length 1 are not quite of length 1: what is compared may be 1e-3 off there.
          const slack = datatype === 'float16' && distance === 'Cosine' ? 2e-3 : 2e-5 * Math.max(1, Math.abs(want[0].score), Math.abs(want.at(-1).score));
          got.forEach((hit, i) => {
            assert.ok(Math.abs(hit.score - want[i].score) <= slack, `hit ${i}: ${hit.score}, expected ${want[i].score}`);
            assert.ok(Math.abs(hit.score - score(query, stored.find((point) => point.id === hit.id).vector)) <= slack, `the score of ${hit.id}`);
          });
        }
      });
