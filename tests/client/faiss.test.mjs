// A collection whose segments are indexed by Faiss, through the real clients: made, refused, searched with and without filters.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { random, startKith } from './harness.mjs';

const seed = Number(process.env.SEED ?? Date.now() % 1e9);
console.log(`SEED=${seed}`);
const ROWS = 40000, DIM = 32, BATCH = 2000, QUERIES = 40, K = 10;
const factory = 'IVF64,PQ16x4fs,RFlat', index = `faiss:${factory}`;

const dot = (a, b) => a.reduce((sum, x, i) => sum + x * b[i], 0);
const filterBelow = (below) => ({ must: [{ key: 'n', range: { lt: below } }] });

for (const name of ['client-1.19', 'client-1.18']) {
  test(`a factory string is checked before anything is made, with ${name}`, async (t) => {
    const { QdrantClient } = await import(name);
    const kith = await startKith();
    t.after(async () => { await kith.stop(); kith.remove(); });
    const client = new QdrantClient({ url: kith.url, checkCompatibility: false });
    for (const [vectors, says] of [
      [{ index: 'faiss:IVF64,PQ7x4fs' }, /^index: index factory: 'PQ7x4fs': 7 does not divide dimension 32$/],
      [{ index: 'faiss:IVF64,Quux' }, /^index: index factory: 'Quux' is not a known piece$/],
      [{ index: 'faiss:IVF9999,Flat' }, /^index: IVF9999: segments are indexed in at most 4096 lists$/],
      [{ index: 'ivf' }, /^index: expected "faiss:" and a factory string/],
      [{ index, distance: 'Manhattan' }, /^index: .*not for Manhattan$/],
    ])
      await assert.rejects(client.createCollection('wrong', { vectors: { size: DIM, distance: 'Cosine', ...vectors } }),
        (e) => (e.status >= 400 && e.status < 500 && says.test(e.data.status.error)) || assert.fail(JSON.stringify(e.data)));
    assert.equal((await client.collectionExists('wrong')).exists, false);
    await client.createCollection('right', { vectors: { size: DIM, distance: 'Cosine', index } });
    assert.equal((await client.getCollection('right')).kith.index.factory, factory);
  });
}

test('segments are searched by Faiss, and no answer is short', async (t) => {
  const { QdrantClient } = await import('client-1.19');
  const kith = await startKith();
  t.after(async () => { await kith.stop(); kith.remove(); });
  const client = new QdrantClient({ url: kith.url, checkCompatibility: false });
  await client.createCollection('real', { vectors: { size: DIM, distance: 'Dot', index } });
  const next = random(seed);
  const vector = () => { const v = centers[Math.floor(next() * 100)].map((x) => x + (next() - 0.5)); const length = Math.sqrt(dot(v, v)); return v.map((x) => x / length); };
  const centers = Array.from({ length: 100 }, () => Array.from({ length: DIM }, () => next() * 2 - 1));
  const points = Array.from({ length: ROWS }, (_, id) => ({ id, vector: vector(), payload: { n: id % 1000 } }));
  for (let at = 0; at < ROWS; at += BATCH) await client.upsert('real', { wait: true, points: points.slice(at, at + BATCH) });
  let info;
  do info = await client.getCollection('real'); while (info.indexed_vectors_count === 0 || info.status !== 'green');
  assert.deepEqual([info.kith.index.kind, info.kith.index.factory, info.kith.index.phase], ['faiss', factory, 'ready']);

  const plans = {};
  for (const below of [1000, 500, 100, 10, 1]) {
    const filter = below < 1000 ? filterBelow(below) : undefined;
    let found = 0, wanted = 0;
    for (let q = 0; q < QUERIES; q++) {
      const query = vector();
      const body = { query, limit: K, filter, params: { explain: true } };
      const answer = await (await fetch(`${kith.url}/collections/real/points/query`, { method: 'POST', headers: { 'content-type': 'application/json' }, body: JSON.stringify(body) })).json();
      const hits = (await client.query('real', { query, limit: K, filter })).points;
      const exact = points.filter((p) => p.payload.n < below).map((p) => ({ id: p.id, score: dot(p.vector, query) })).sort((a, b) => b.score - a.score).slice(0, K);
      assert.equal(hits.length, exact.length, `below ${below}: never short`);
      for (const hit of hits) assert.ok(Math.abs(hit.score - dot(points[hit.id].vector, query)) < 1e-5, 'scores are exact');
      found += hits.filter((h) => exact.some((e) => e.id === h.id)).length;
      wanted += exact.length;
      const how = answer.explain[0].nodes[0];
      (plans[below] ??= new Set()).add(how.plan);
      assert.equal(how.plan === 'faiss', how.k_factor > 0 && how.nprobe > 0, JSON.stringify(how));
    }
    console.log(`${below / 10} %: recall ${(found / wanted).toFixed(3)}, plans ${[...plans[below]].join(' ')}`);
    assert.ok(found >= 0.93 * wanted, `below ${below}: ${found} of ${wanted}`);
  }
  assert.ok(plans[1000].has('faiss'), 'the index is used');
  assert.ok(!plans[1].has('faiss'), 'a few matches are ranked directly');

  await kith.stop();
  const again = await startKith([], kith.dir);
  t.after(() => again.stop());
  const answer = await (await fetch(`${again.url}/collections/real/points/query`, { method: 'POST', headers: { 'content-type': 'application/json' }, body: JSON.stringify({ query: points[7].vector, params: { explain: true } }) })).json();
  assert.deepEqual([answer.result.points[0].id, answer.explain[0].nodes[0].plan], [7, 'faiss'], 'found again after a restart');
});
