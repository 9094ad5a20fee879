// Bad input gets a precise 4xx that names the field, and changes nothing.
import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import { startKith, startProxy } from './harness.mjs';

const vector = [1, 2, 3, 4];
const deep = (n) => '{"a":'.repeat(n) + '1' + '}'.repeat(n);

// [what, method, path, body (an object, or text as it stands), status, words the message must hold]
const cases = [
  ['unknown path', 'GET', '/nothing/here', undefined, 404, ['nothing']],
  ['wrong method', 'DELETE', '/collections/c/points/query', undefined, 405, ['DELETE']],
  ['unknown collection', 'POST', '/collections/none/points/query', { query: vector }, 404, ['none']],
  ['unknown collection upsert', 'PUT', '/collections/none/points', { points: [{ id: 1, vector }] }, 404, ['none']],
  ['empty body', 'PUT', '/collections/c/points', '', 400, ['body']],
  ['not JSON', 'PUT', '/collections/c/points', '{"points": [', 400, ['JSON']],
  ['trailing bytes', 'POST', '/collections/c/points/count', '{} x', 400, ['JSON']],
  ['bad UTF-8', 'POST', '/collections/c/points/count', Buffer.from([0x7b, 0x22, 0xff, 0x22, 0x3a, 0x31, 0x7d]), 400, ['UTF-8']],
  ['duplicate keys', 'POST', '/collections/c/points/query', '{"query":[1,2,3,4],"limit":1,"limit":2}', 400, ['limit', 'twice']],
  ['deep nesting', 'PUT', '/collections/c/points', `{"points":[{"id":1,"vector":[1,2,3,4],"payload":${deep(60)}}]}`, 400, ['deep']],
  ['points missing', 'PUT', '/collections/c/points', {}, 400, ['points']],
  ['points not a list', 'PUT', '/collections/c/points', { points: { id: 1 } }, 400, ['points', 'array']],
  ['id missing', 'PUT', '/collections/c/points', { points: [{ vector }] }, 400, ['points[0]', 'id']],
  ['id negative', 'PUT', '/collections/c/points', { points: [{ id: -1, vector }] }, 400, ['points[0].id']],
  ['id a float', 'PUT', '/collections/c/points', { points: [{ id: 1.5, vector }] }, 400, ['points[0].id']],
  ['id free text', 'PUT', '/collections/c/points', { points: [{ id: 'abc', vector }] }, 400, ['points[0].id', 'UUID']],
  ['second point wrong', 'PUT', '/collections/c/points', { points: [{ id: 1, vector }, { id: 2, vector: [1] }] }, 400, ['points[1].vector', '4', '1']],
  ['dimension too large', 'PUT', '/collections/c/points', { points: [{ id: 1, vector: [1, 2, 3, 4, 5] }] }, 400, ['points[0].vector', '5']],
  ['vector of text', 'PUT', '/collections/c/points', { points: [{ id: 1, vector: [1, 2, 3, 'x'] }] }, 400, ['points[0].vector', '3']],
  ['beyond f32', 'PUT', '/collections/c/points', '{"points":[{"id":1,"vector":[1,2,3,1e300]}]}', 400, ['points[0].vector']],
  ['NaN', 'PUT', '/collections/c/points', '{"points":[{"id":1,"vector":[1,2,3,NaN]}]}', 400, ['JSON']],
  ['payload not an object', 'PUT', '/collections/c/points', { points: [{ id: 1, vector, payload: [1] }] }, 400, ['payload', 'object']],
  ['batch lengths differ', 'PUT', '/collections/c/points', { batch: { ids: [1, 2], vectors: [vector] } }, 400, ['batch.vectors']],
  ['text without encoder', 'PUT', '/collections/c/points', { points: [{ id: 1, vector: { text: 'hello' } }] }, 400, ['encoder']],
  ['empty text', 'POST', '/collections/t/points/query', { query: { text: '' } }, 422, ['text']],
  ['query missing dimension', 'POST', '/collections/c/points/query', { query: [1, 2] }, 400, ['query', '4', '2']],
  ['limit not a number', 'POST', '/collections/c/points/query', { query: vector, limit: 'ten' }, 400, ['limit']],
  ['limit zero', 'POST', '/collections/c/points/query', { query: vector, limit: 0 }, 400, ['limit']],
  ['limit too large', 'POST', '/collections/c/points/query', { query: vector, limit: 1000000000 }, 400, ['limit', '10000']],
  ['offset negative', 'POST', '/collections/c/points/query', { query: vector, offset: -1 }, 400, ['offset']],
  ['unknown id as query', 'POST', '/collections/c/points/query', { query: 123456 }, 404, ['123456']],
  ['fusion', 'POST', '/collections/c/points/query', { query: { fusion: 'rrf' } }, 400, ['fusion']],
  ['prefetch', 'POST', '/collections/c/points/query', { query: vector, prefetch: { query: vector } }, 400, ['prefetch']],
  ['unknown vector name', 'POST', '/collections/c/points/query', { query: vector, using: 'image' }, 400, ['using', 'image']],
  ['unknown filter word', 'POST', '/collections/c/points/query', { query: vector, filter: { mist: [] } }, 400, ['filter', 'mist']],
  ['bad range', 'POST', '/collections/c/points/query', { query: vector, filter: { must: [{ key: 'a', range: { gte: 'x' } }] } }, 400, ['filter.must[0].range.gte']],
  ['geo filter', 'POST', '/collections/c/points/count', { filter: { must: [{ key: 'a', geo_radius: {} }] } }, 400, ['geo']],
  ['threshold of text', 'POST', '/collections/c/points/query', { query: vector, score_threshold: 'x' }, 400, ['score_threshold']],
  ['delete without selector', 'POST', '/collections/c/points/delete', {}, 400, ['points', 'filter']],
  ['delete bad id', 'POST', '/collections/c/points/delete', { points: [1, 'x'] }, 400, ['points[1]']],
  ['set payload without target', 'POST', '/collections/c/points/payload', { payload: { a: 1 } }, 400, ['points', 'filter']],
  ['scroll limit too large', 'POST', '/collections/c/points/scroll', { limit: 10001 }, 400, ['limit', '10000']],
  ['scroll limit', 'POST', '/collections/c/points/scroll', { limit: -3 }, 400, ['limit']],
  ['facet without key', 'POST', '/collections/c/facet', { limit: 3 }, 400, ['key']],
  ['create without vectors', 'PUT', '/collections/x1', {}, 400, ['vectors']],
  ['create size 0', 'PUT', '/collections/x1', { vectors: { size: 0, distance: 'Dot' } }, 400, ['size']],
  ['create size too large', 'PUT', '/collections/x1', { vectors: { size: 65537, distance: 'Dot' } }, 400, ['size', '8192']],
  ['create unknown distance', 'PUT', '/collections/x1', { vectors: { size: 4, distance: 'Hamming' } }, 400, ['distance', 'Hamming']],
  ['create two vectors', 'PUT', '/collections/x1', { vectors: { a: { size: 4, distance: 'Dot' }, b: { size: 4, distance: 'Dot' } } }, 400, ['vectors']],
  ['create sparse', 'PUT', '/collections/x1', { vectors: { size: 4, distance: 'Dot' }, sparse_vectors: { s: {} } }, 400, ['sparse_vectors']],
  ['create bad name', 'PUT', '/collections/a%20b%2Fc', { vectors: { size: 4, distance: 'Dot' } }, 400, ['name']],
  ['create unknown encoder', 'PUT', '/collections/x1', { encoder: { kind: 'magic' } }, 400, ['encoder', 'magic']],
  ['encoder file with a path', 'PUT', '/collections/x1', { encoder: { kind: 'wordvec', file: '../../etc/passwd' } }, 400, ['file']],
  ['batch update unknown', 'POST', '/collections/c/points/batch', { operations: [{ explode: {} }] }, 400, ['operations[0]']],
  ['point id in the path', 'GET', '/collections/c/points/x', undefined, 400, ['id']],
];

test('a collection that finds no room is refused at once, and leaves nothing', async () => {
  const full = await startKith([], undefined, { fileBlocks: 2048 });
  const send = (method, path, body) => fetch(full.url + path, { method, headers: { 'content-type': 'application/json' }, body: body && JSON.stringify(body) });
  try {
    const answer = await send('PUT', '/collections/c', { vectors: { size: 4, distance: 'Dot' } });
    assert.equal(answer.status, 507);
    assert.match((await answer.json()).status.error, /collection c was not created: node [0-9a-f]{16} cannot store slice 0: disk full/);
    assert.deepEqual((await (await send('GET', '/collections')).json()).result.collections, []);
    assert.equal((await send('PUT', '/collections/c', { vectors: { size: 4, distance: 'Dot' } })).status, 507); // the name is free
  } finally {
    await full.stop();
    full.remove();
  }
});

describe('errors', () => {
  let kith, proxy;
  const send = (method, path, body) => fetch(kith.url + path, {
    method, headers: { 'content-type': 'application/json' },
    body: body === undefined || typeof body === 'string' || Buffer.isBuffer(body) ? body : JSON.stringify(body) });
  before(async () => {
    kith = await startKith();
    proxy = await startProxy(kith.url);
    for (const [name, body] of [['c', { vectors: { size: 4, distance: 'Dot' } }], ['t', { encoder: { kind: 'ngram', dim: 64 } }]])
      assert.equal((await send('PUT', `/collections/${name}`, body)).status, 200);
    assert.equal((await send('PUT', '/collections/c/points?wait=true', { points: [{ id: 900, vector, payload: { keep: true } }] })).status, 200);
  });
  after(async () => {
    await proxy?.close();
    assert.deepEqual(await kith?.stop(), { code: 0, signal: null });
    kith?.remove();
  });

  for (const [what, method, path, body, status, words] of cases) {
    test(what, async () => {
      const answer = await send(method, path, body);
      const text = await answer.text();
      assert.equal(answer.status, status, text);
      const message = JSON.parse(text).status?.error;
      assert.equal(typeof message, 'string', text);
      for (const word of words) assert.ok(message.includes(word), `"${message}" names ${word}`);
    });
  }

  test('a body beyond the limit is refused before it is read', async () => {
    const answer = await send('PUT', '/collections/c/points', Buffer.alloc(33 << 20, 0x20)).catch((error) => error);
    if (answer instanceof Error) assert.match(String(answer.cause ?? answer), /reset|closed|EPIPE/i);
    else {
      assert.equal(answer.status, 413);
      assert.match(await answer.text(), /body: 34603008 bytes, at most 33554432 allowed/);
    }
  });

  test('nothing changed', async () => {
    const { result } = await (await send('POST', '/collections/c/points/scroll', { limit: 100 })).json();
    assert.deepEqual(result.points.map((p) => [p.id, p.payload]), [[900, { keep: true }]]);
    const { result: list } = await (await send('GET', '/collections')).json();
    assert.deepEqual(list.collections.map((c) => c.name).sort(), ['c', 't']);
  });
});
