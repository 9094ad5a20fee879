// The real npm clients against a real Kith: every endpoint of the API, judged by a brute-force oracle and by the API's schemas.
import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import { compareIds, Oracle } from './oracle.mjs';
import { random, startKith, startProxy } from './harness.mjs';

const seed = Number(process.env.SEED ?? Date.now() % 1e9);
console.log(`SEED=${seed}`);

const DIM = 24;
const uuid = (n) => `936da01f-9abd-4d9d-80c7-${n.toString(16).padStart(12, '0')}`;
const filters = [
  undefined,
  { must: [{ key: 'del', match: { value: false } }] },
  { must: [{ key: 'del', match: { value: false } }, { key: 'category', match: { any: ['a', 'b'] } }] },
  { must_not: [{ key: 'category', match: { value: 'a' } }] },
  { should: [{ key: 'n', range: { lt: 20 } }, { key: 'tags', match: { value: 'red' } }] },
  { must: [{ key: 'price', range: { gte: 10, lt: 50.5 } }] },
  { must: [{ key: 'tags', match: { except: ['red'] } }] },
  { must: [{ is_empty: { key: 'maybe' } }] },
  { must: [{ is_null: { key: 'maybe' } }] },
  { must: [{ key: 'when', range: { gte: '2026-01-05T00:00:00Z', lt: '2026-01-20T00:00:00Z' } }] },
  { must: [{ nested: { key: 'items', filter: { must: [{ key: 'kind', match: { value: 'x' } }, { key: 'count', range: { gt: 3 } }] } } }] },
  { must: [{ key: 'items[].count', range: { gt: 7 } }] },
  { must: [{ key: 'author.name', match: { value: '李雷' } }] },
  { min_should: { conditions: [{ key: 'del', match: { value: true } }, { key: 'n', range: { gte: 50 } }, { key: 'tags', match: { value: 'blue' } }], min_count: 2 } },
  { must: [{ has_id: [1, 2, 3, 77777, uuid(4)] }] },
  { must: [{ should: [{ key: 'n', match: { value: 5 } }, { must: [{ key: 'n', range: { gt: 90 } }] }] }] },
  { must: [{ key: 'tags', values_count: { gte: 2 } }] },
  { must: [{ key: 'nothing', match: { value: 'here' } }] },
];

function makePoint(next, i) {
  const payload = { del: next() < 0.2, category: 'abcd'[Math.floor(next() * 4)], n: i, price: Math.round(next() * 10000) / 100 };
  if (next() < 0.6) payload.tags = ['red', 'green', 'blue'].filter(() => next() < 0.5);
  if (next() < 0.5) payload.maybe = next() < 0.5 ? null : 'yes';
  payload.when = new Date(Date.UTC(2026, 0, 1 + Math.floor(next() * 31), 12)).toISOString();
  if (next() < 0.7) payload.items = Array.from({ length: 1 + Math.floor(next() * 3) }, () => ({ kind: next() < 0.5 ? 'x' : 'y', count: Math.floor(next() * 10) }));
  if (next() < 0.5) payload.author = { name: next() < 0.5 ? '李雷' : 'Han Meimei' };
  return { id: i % 5 === 4 ? uuid(i) : i, vector: Array.from({ length: DIM }, () => next() * 2 - 1), payload };
}

// Scores are compared with a tolerance; two hits may swap only if their scores are that close.
function sameHits(got, want, oracle, context) {
  assert.equal(got.length, want.length, `${context}: number of hits`);
  for (let i = 0; i < got.length; i++) {
    const tolerance = 2e-5 * Math.max(1, Math.abs(want[i].score));
    assert.ok(Math.abs(got[i].score - want[i].score) <= tolerance, `${context}: hit ${i}: score ${got[i].score}, expected ${want[i].score}`);
    if (got[i].id !== want[i].id)
      assert.ok(want.some((w) => w.id === got[i].id && Math.abs(w.score - got[i].score) <= tolerance) || i === got.length - 1,
        `${context}: hit ${i} is ${got[i].id}, expected ${want[i].id}`);
  }
}

for (const version of ['1.18', '1.19']) {
  describe(`client ${version}`, () => {
    let kith, proxy, client, QdrantClient;
    const next = random(seed);
    before(async () => {
      ({ QdrantClient } = await import(`client-${version}`));
      kith = await startKith();
      proxy = await startProxy(kith.url);
      client = new QdrantClient({ url: proxy.url });
    });
    after(async () => {
      await proxy?.close();
      const end = await kith?.stop();
      kith?.remove();
      assert.deepEqual(end, { code: 0, signal: null }, 'kith stops cleanly');
    });

    test('version, health and metrics', async () => {
      const info = await client.versionInfo();
      assert.match(info.version, /^1\.1[89]\./);
      for (const path of ['healthz', 'livez', 'readyz']) {
        const answer = await fetch(`${kith.url}/${path}`);
        assert.equal(answer.status, 200);
        assert.match(answer.headers.get('content-type'), /^text\/plain/);
      }
      const metrics = await (await fetch(`${kith.url}/metrics`)).text();
      for (const name of ['app_info', 'collections_total', 'rest_responses_total', 'rest_responses_duration_seconds', 'memory_resident_bytes', 'process_open_fds'])
        assert.ok(metrics.includes(name), `metrics name ${name}`);
    });

    test('collections: create, exists, list, info, patch, delete', async () => {
      assert.deepEqual(await client.collectionExists('life'), { exists: false });
      assert.equal(await client.createCollection('life', { vectors: { size: 4, distance: 'Dot' } }), true);
      await assert.rejects(client.createCollection('life', { vectors: { size: 4, distance: 'Dot' } }), (e) => e.status === 409);
      assert.deepEqual(await client.collectionExists('life'), { exists: true });
      assert.ok((await client.getCollections()).collections.some((c) => c.name === 'life'));
      const info = await client.getCollection('life');
      assert.equal(info.status, 'green');
      assert.equal(info.points_count, 0);
      assert.deepEqual([info.config.params.vectors.size, info.config.params.vectors.distance], [4, 'Dot']);
      assert.equal(await client.updateCollection('life', { optimizers_config: { indexing_threshold: 10000 } }), true);
      assert.equal(await client.deleteCollection('life'), true);
      await assert.rejects(client.getCollection('life'), (e) => e.status === 404);
    });

    for (const distance of ['Cosine', 'Dot', 'Euclid', 'Manhattan']) {
      test(`search and filters agree with the oracle: ${distance}`, async () => {
        const name = `s-${distance}`;
        const oracle = new Oracle(distance);
        await client.createCollection(name, { vectors: { size: DIM, distance }, shard_number: distance === 'Dot' ? 3 : undefined });
        const points = Array.from({ length: 300 }, (_, i) => makePoint(next, i));
        const result = await client.upsert(name, { wait: true, points: points.slice(0, 200) });
        assert.equal(result.status, 'completed');
        const rest = points.slice(200);
        await client.upsert(name, { wait: true, batch: { ids: rest.map((p) => p.id), vectors: rest.map((p) => p.vector), payloads: rest.map((p) => p.payload) } });
        oracle.upsert(points);
        for (const filter of filters) {
          const context = `${distance} ${JSON.stringify(filter)}`;
          const query = Array.from({ length: DIM }, () => next() * 2 - 1);
          const { points: got } = await client.query(name, { query, filter, limit: 15, with_payload: true });
          sameHits(got, oracle.search(query, { filter, limit: 15 }), oracle, context);
          for (const hit of got) assert.deepEqual(hit.payload, oracle.points.get(hit.id).payload, `${context}: payload`);
          assert.equal((await client.count(name, { filter, exact: true })).count, oracle.matching(filter).length, `${context}: count`);
        }
        const query = points[3].vector;
        const want = oracle.search(query, { limit: 40 });
        sameHits((await client.query(name, { query, limit: 10, offset: 7 })).points, want.slice(7, 17), oracle, 'offset');
        const threshold = (want[10].score + want[11].score) / 2;
        sameHits((await client.query(name, { query, limit: 40, score_threshold: threshold })).points, want.slice(0, 11), oracle, 'threshold');
        sameHits((await client.query(name, { query: points[3].id, limit: 5 })).points, oracle.search(query, { limit: 5, except: points[3].id }), oracle, 'by id');
        const batch = await client.queryBatch(name, { searches: filters.slice(0, 5).map((filter) => ({ query, filter, limit: 6, with_vector: true })) });
        batch.forEach((answer, i) => sameHits(answer.points, oracle.search(query, { filter: filters[i], limit: 6 }), oracle, `batch ${i}`));
        if (client.search) {
          sameHits(await client.search(name, { vector: query, limit: 9, filter: filters[2] }), oracle.search(query, { limit: 9, filter: filters[2] }), oracle, 'old search');
          const old = await client.searchBatch(name, { searches: [{ vector: query, limit: 3 }, { vector: points[9].vector, limit: 4 }] });
          sameHits(old[1], oracle.search(points[9].vector, { limit: 4 }), oracle, 'old batch');
        }
      });
    }

    test('points: retrieve, scroll, payload operations, vectors, delete', async () => {
      const name = 'points';
      const oracle = new Oracle('Cosine');
      await client.createCollection(name, { vectors: { size: DIM, distance: 'Cosine' } });
      const points = Array.from({ length: 120 }, (_, i) => makePoint(next, i));
      await client.upsert(name, { wait: true, points });
      oracle.upsert(points);

      const records = await client.retrieve(name, { ids: [3, uuid(4), 99999], with_vector: true });
      assert.deepEqual(records.map((r) => r.id).sort(compareIds), [3, uuid(4)]);
      assert.deepEqual(records.find((r) => r.id === 3).payload, points[3].payload);
      const raw = await (await fetch(`${kith.url}/collections/${name}/points/3`)).json();
      assert.equal(raw.result.id, 3);
      assert.equal((await fetch(`${kith.url}/collections/${name}/points/99999`)).status, 404);

      for (const filter of filters) {
        const got = [];
        let offset;
        do {
          const page = await client.scroll(name, { filter, limit: 17, offset });
          got.push(...page.points);
          offset = page.next_page_offset ?? undefined;
        } while (offset !== undefined);
        assert.deepEqual(got.map((p) => p.id), oracle.matching(filter).map(([id]) => id), `scroll ${JSON.stringify(filter)}`);
      }
      const ordered = await client.scroll(name, { limit: 10, order_by: { key: 'n', direction: 'desc', start_from: 60 } });
      assert.deepEqual(ordered.points.map((p) => p.payload.n), [60, 59, 58, 57, 56, 55, 54, 53, 52, 51]);

      const stored = async (id) => (await client.retrieve(name, { ids: [id] }))[0].payload;
      await client.setPayload(name, { wait: true, payload: { extra: 1, category: 'z' }, points: [1] });
      assert.deepEqual(await stored(1), { ...points[1].payload, extra: 1, category: 'z' });
      await client.setPayload(name, { wait: true, payload: { city: 'Kith' }, key: 'author', points: [2] });
      assert.equal((await stored(2)).author.city, 'Kith');
      await client.overwritePayload(name, { wait: true, payload: { only: true }, points: [1] });
      assert.deepEqual(await stored(1), { only: true });
      await client.deletePayload(name, { wait: true, keys: ['category', 'price'], points: [3] });
      const { category, price, ...left } = points[3].payload;
      assert.deepEqual(await stored(3), left);
      await client.clearPayload(name, { wait: true, points: [5] });
      assert.deepEqual((await stored(5)) ?? {}, {});
      await client.setPayload(name, { wait: true, payload: { marked: true }, filter: { must: [{ key: 'n', range: { gte: 100 } }] } });
      assert.equal((await client.count(name, { filter: { must: [{ key: 'marked', match: { value: true } }] } })).count, 20);

      const moved = Array.from({ length: DIM }, () => next());
      await client.updateVectors(name, { wait: true, points: [{ id: 7, vector: moved }] });
      assert.equal((await client.query(name, { query: moved, limit: 1 })).points[0].id, 7);
      assert.deepEqual(await stored(7), points[7].payload);

      await client.delete(name, { wait: true, points: [0, uuid(9)] });
      await client.delete(name, { wait: true, filter: { must: [{ key: 'n', range: { gte: 110 } }] } });
      assert.equal((await client.count(name)).count, 120 - 2 - 10);
      assert.deepEqual(await client.retrieve(name, { ids: [0, 115] }), []);

      const results = await client.batchUpdate(name, { wait: true, operations: [
        { upsert: { points: [{ id: 500, vector: moved, payload: { a: 1 } }] } },
        { set_payload: { payload: { b: 2 }, points: [500] } },
        { delete_payload: { keys: ['a'], points: [500] } },
        { delete: { points: [6] } },
      ] });
      assert.equal(results.length, 4);
      assert.deepEqual(await stored(500), { b: 2 });
      assert.deepEqual(await client.retrieve(name, { ids: [6] }), []);
    });

    test('payload index and facets', async () => {
      const name = 'facets';
      await client.createCollection(name, { vectors: { size: DIM, distance: 'Dot' } });
      const points = Array.from({ length: 100 }, (_, i) => makePoint(next, i));
      await client.upsert(name, { wait: true, points });
      const indexed = await client.createPayloadIndex(name, { field_name: 'category', field_schema: 'keyword', wait: true });
      assert.equal(indexed.status, 'completed');
      const schema = (await client.getCollection(name)).payload_schema;
      assert.equal(schema.category.data_type, 'keyword');
      await client.deletePayloadIndex(name, 'category');
      const { hits } = await client.facet(name, { key: 'category', limit: 10, exact: true });
      const counts = {};
      for (const p of points) counts[p.payload.category] = (counts[p.payload.category] ?? 0) + 1;
      assert.deepEqual(Object.fromEntries(hits.map((h) => [h.value, h.count])), counts);
      for (let i = 1; i < hits.length; i++) assert.ok(hits[i - 1].count >= hits[i].count, 'most frequent first');
    });

    test('a named vector', async () => {
      await client.createCollection('named', { vectors: { image: { size: 3, distance: 'Dot' } } });
      await client.upsert('named', { wait: true, points: [{ id: 1, vector: { image: [1, 2, 3] } }, { id: 2, vector: { image: [3, 2, 1] } }] });
      const { points } = await client.query('named', { query: [0, 0, 1], using: 'image', with_vector: true });
      assert.deepEqual(points.map((p) => p.id), [1, 2]);
      assert.deepEqual(points[0].vector, { image: [1, 2, 3] });
    });

    test('quantization: what was asked for is said, what has no effect is named', async () => {
      const asked = [[{ scalar: { type: 'int8', quantile: 0.99, always_ram: true } }, 'int8'], [{ product: { compression: 'x16' } }, 'pq4'], [{ binary: { always_ram: true } }, 'pq4']];
      for (const [config, kind] of asked) {
        await client.createCollection('quantized', { vectors: { size: DIM, distance: 'Cosine' }, quantization_config: config, hnsw_config: { ef_construct: 200 } });
        const info = await client.getCollection('quantized');
        assert.deepEqual(info.config.quantization_config, config);
        assert.equal(info.kith.index.kind, kind);
        assert.ok(info.warnings.some((w) => w.message.includes('ef_construct')), JSON.stringify(info.warnings));
        await client.deleteCollection('quantized');
      }
      await client.createCollection('quantized', { vectors: { size: DIM, distance: 'Cosine' }, hnsw_config: { m: 0 } });
      assert.equal((await client.getCollection('quantized')).kith.index.kind, 'none');
      for (const [wrong, says] of [[{ scalar: { type: 'int4' } }, 'quantization_config.scalar.type'], [{ product: { compression: 'x5' } }, 'quantization_config.product.compression']])
        await assert.rejects(client.createCollection('wrong', { vectors: { size: DIM, distance: 'Cosine' }, quantization_config: wrong }), (e) => e.status === 400 && e.data.status.error.startsWith(says));
    });

    test('how hard to search, and how it was done', async () => {
      const query = Array.from({ length: DIM }, () => next() * 2 - 1);
      const exact = (await client.query('points', { query, params: { exact: true } })).points;
      for (const params of [{ hnsw_ef: 200 }, { recall: 0.9 }, { indexed_only: true }, { quantization: { ignore: true, rescore: false, oversampling: 3 } }, { exact: true, hnsw_ef: 5 }])
        assert.deepEqual((await client.query('points', { query, params })).points, exact, JSON.stringify(params));
      const post = async (path, body) => (await fetch(`${proxy.url}/collections/points/points/${path}`, { method: 'POST', headers: { 'content-type': 'application/json' }, body: JSON.stringify(body) })).json();
      const searches = [{ query, limit: 3 }, { query, limit: 3, params: { explain: true, recall: 0.9 }, filter: filters[1] }];
      const { explain } = await post('query/batch', { searches });
      assert.equal(explain[0], null);
      assert.equal(explain[1].matched, (await client.count('points', { filter: filters[1] })).count);
      assert.ok(Math.abs(explain[1].recall_asked - 0.9) < 1e-6);
      assert.ok(['scan', 'pick'].includes(explain[1].nodes[0].plan) && explain[1].nodes[0].rows > 0 && explain[1].nodes[0].heads === 1);
      assert.equal((await post('search', { vector: query, limit: 2, params: { explain: true } })).explain.length, 1);
      assert.equal((await post('query', { query })).explain, undefined);
      await assert.rejects(client.query('points', { query, params: { recall: 0.9, hnsw_ef: 9 } }), (e) => e.status === 400 && e.data.status.error.startsWith('params.recall'));
    });

    test('cluster information', async () => {
      const info = await client.collectionClusterInfo('points');
      assert.ok(info.shard_count >= 1);
      const answer = await (await fetch(`${proxy.url}/cluster`)).json();
      assert.ok(['enabled', 'disabled'].includes(answer.result.status));
    });

    test('text is encoded by the coordinator', async () => {
      const put = (path, body) => fetch(`${kith.url}${path}`, { method: 'PUT', headers: { 'content-type': 'application/json' }, body: JSON.stringify(body) });
      assert.equal((await put('/collections/text', { encoder: { kind: 'ngram', dim: 256 } })).status, 200);
      const texts = ['how do I reset my password', 'what is the weather like', '如何重置密码', '今天天气怎么样'];
      await client.upsert('text', { wait: true, points: texts.map((text, i) => ({ id: i, vector: { text, model: 'ngram' } })) });
      for (const [query, id] of [['reset password', 0], ['weather today', 1], ['重置密码', 2], ['天气', 3]])
        assert.equal((await client.query('text', { query: { text: query, model: 'ngram' }, limit: 1 })).points[0].id, id, query);
    });

    test('every answer matched the specification, every endpoint was seen', () => {
      assert.deepEqual(proxy.problems, []);
      const wanted = ['GET /', 'GET /collections', 'PUT /collections/{collection_name}', 'PATCH /collections/{collection_name}', 'GET /collections/{collection_name}',
        'DELETE /collections/{collection_name}', 'GET /collections/{collection_name}/exists', 'PUT /collections/{collection_name}/index',
        'DELETE /collections/{collection_name}/index/{field_name}', 'PUT /collections/{collection_name}/points', 'POST /collections/{collection_name}/points',
        'POST /collections/{collection_name}/points/delete', 'POST /collections/{collection_name}/points/payload', 'PUT /collections/{collection_name}/points/payload',
        'POST /collections/{collection_name}/points/payload/delete', 'POST /collections/{collection_name}/points/payload/clear', 'PUT /collections/{collection_name}/points/vectors',
        'POST /collections/{collection_name}/points/batch', 'POST /collections/{collection_name}/points/scroll', 'POST /collections/{collection_name}/points/count',
        'POST /collections/{collection_name}/points/query', 'POST /collections/{collection_name}/points/query/batch', 'POST /collections/{collection_name}/facet',
        'GET /cluster', 'GET /collections/{collection_name}/cluster'];
      assert.deepEqual(wanted.filter((w) => !proxy.seen.has(w)), []);
    });
  });
}
