// Filters and facets over points that are all in memory (not sealed yet), some replaced, some deleted, against a model.
import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { random, startKith } from './harness.mjs';

const seed = Number(process.env.SEED ?? Date.now() % 1e9);
console.log(`SEED=${seed}`);
const next = random(seed);
const draw = (n) => Math.floor(next() * n);
const live = new Map();
const long = 'x'.repeat(300); // too long for a column's dictionary
let kith;

async function api(method, path, body) {
  const answer = await fetch(`${kith.url}/collections/${path}`, { method, headers: { 'content-type': 'application/json' }, body: JSON.stringify(body) });
  const said = await answer.json();
  assert.equal(answer.status, 200, `${method} ${path}: ${said.status?.error}`);
  return said.result;
}

before(async () => {
  kith = await startKith();
  await api('PUT', 'heads', { vectors: { size: 4, distance: 'Dot' } });
  for (let round = 0; round < 8; round++) {
    const points = Array.from({ length: 900 }, () => {
      const payload = { color: ['red', 'green', `${long}${draw(3)}`][draw(3)], n: draw(10), del: draw(2) === 1 };
      if (draw(3) === 0) payload.tags = ['a', 'b', 'a', draw(4)].slice(draw(3));
      return { id: draw(4000), vector: [next(), next(), next(), next()], payload };
    });
    await api('PUT', 'heads/points?wait=true', { points });
    for (const { id, payload } of points) live.set(id, payload);
    const gone = Array.from({ length: 50 }, () => draw(4000));
    await api('POST', 'heads/points/delete?wait=true', { points: gone });
    for (const id of gone) live.delete(id);
    if (round === 3) await api('POST', 'heads/facet', { key: 'n' }); // columns are made while rows still come and go
  }
});
after(async () => {
  const end = await kith?.stop();
  kith?.remove();
  assert.deepEqual(end, { code: 0, signal: null });
});

const ids = Array.from({ length: 4000 }, (_, id) => id);
const filters = [
  [undefined, () => true],
  [{ must: [{ key: 'del', match: { value: false } }] }, (p) => !p.del],
  [{ must: [{ key: 'color', match: { any: ['red', `${long}1`] } }], must_not: [{ key: 'n', range: { lt: 5 } }] }, (p) => ['red', `${long}1`].includes(p.color) && p.n >= 5],
  [{ should: [{ key: 'tags', match: { value: 'b' } }, { key: 'tags', match: { value: 3 } }] }, (p) => p.tags?.some((t) => t === 'b' || t === 3)],
  [{ must: [{ is_empty: { key: 'tags' } }] }, (p) => !p.tags],
  [{ must: [{ has_id: [1, 2, 3, 77, 9999] }] }, (p, id) => [1, 2, 3, 77].includes(id)],
  [{ must: [{ has_id: ids.filter((id) => id % 3 === 0) }, { key: 'color', match: { except: ['green'] } }] }, (p, id) => id % 3 === 0 && p.color !== 'green'],
];

test('filters find and count what the model says', async () => {
  for (const [filter, matches] of filters) {
    const want = [...live].filter(([id, payload]) => matches(payload, id)).map(([id]) => id).sort((a, b) => a - b);
    assert.equal((await api('POST', 'heads/points/count', { filter })).count, want.length, JSON.stringify(filter)?.slice(0, 200));
    const page = await api('POST', 'heads/points/scroll', { filter, limit: 10000, with_payload: false });
    assert.deepEqual(page.points.map((point) => point.id), want);
    const hits = (await api('POST', 'heads/points/query', { query: [1, 1, 1, 1], filter, limit: 10000 })).points;
    assert.deepEqual(hits.map((hit) => hit.id).sort((a, b) => a - b), want);
  }
});

test('facets count what the model says', async () => {
  for (const key of ['color', 'n', 'del', 'tags', 'nothing'])
    for (const [filter, matches] of filters) {
      const want = new Map();
      for (const [id, payload] of live)
        if (matches(payload, id))
          for (const value of new Set([payload[key] ?? []].flat())) want.set(value, (want.get(value) ?? 0) + 1);
      const { hits } = await api('POST', 'heads/facet', { key, filter, limit: 100 });
      assert.deepEqual(new Map(hits.map((hit) => [hit.value, hit.count]).sort()), new Map([...want].sort()), `${key} ${JSON.stringify(filter)?.slice(0, 200)}`);
    }
});
