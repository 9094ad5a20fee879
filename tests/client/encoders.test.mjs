// Text encoders that read files, from HTTP to disk: create, upsert, query, restart, and what may be wrong with a file.
import assert from 'node:assert/strict';
import { closeSync, existsSync, mkdtempSync, openSync, readFileSync, rmSync, writeFileSync, writeSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { startKith } from './harness.mjs';

const words = { cat: [1, 0, 0, 0], dog: [0.9, 0.3, 0, 0], car: [0, 0, 1, 0], truck: [0, 0.1, 0.9, 0.1], 猫: [1, 0, 0.05, 0], red: [0, 0, 0.1, 0.2] };
const glove = Object.entries(words).map(([word, row]) => `${word} ${row.join(' ')}\n`).join('');
const binary = Buffer.concat([Buffer.from(`${Object.keys(words).length} 4\n`),
  ...Object.entries(words).flatMap(([word, row]) => [Buffer.from(`${word} `), Buffer.from(Float32Array.from(row).buffer), Buffer.from('\n')])]);

const files = mkdtempSync(join(tmpdir(), 'kith-encoders-'));
const file = (name) => join(files, name);
let kith;

async function api(method, path, body) {
  const answer = await fetch(kith.url + path, { method, headers: { 'content-type': 'application/json' }, body: body && JSON.stringify(body) });
  const said = await answer.json();
  return { status: answer.status, result: said.result, error: said.status?.error };
}
const create = (name, encoder, rest = {}) => api('PUT', `/collections/${name}`, { encoder, ...rest });
const ask = (name, text) => api('POST', `/collections/${name}/points/query`, { query: { text }, limit: 10 });
const ids = (answer) => answer.result.points.map((hit) => hit.id);
async function restart(args = ['--encoders', files]) {
  await kith.stop();
  kith = await startKith(args, kith.dir);
}

before(async () => {
  writeFileSync(file('glove.txt'), glove);
  writeFileSync(file('w2v.txt'), `${Object.keys(words).length} 4\n${glove}`);
  writeFileSync(file('w2v.bin'), binary);
  kith = await startKith(['--encoders', files]);
});
after(async () => {
  const end = await kith?.stop();
  kith?.remove();
  rmSync(files, { recursive: true, force: true });
  assert.deepEqual(end, { code: 0, signal: null }, 'kith stops cleanly');
});

for (const [name, source] of [['glove', 'glove.txt'], ['w2v-text', 'w2v.txt'], ['w2v-binary', 'w2v.bin']]) {
  test(`${source}: texts in, neighbours out, also after a restart`, async () => {
    assert.equal((await create(name, { kind: 'wordvec', file: source })).status, 200);
    assert.ok(existsSync(file(`${source}.kwv`)), 'the converted table is kept');
    const upsert = await api('PUT', `/collections/${name}/points?wait=true`, { points: [
      { id: 1, vector: { text: 'dog' } }, { id: 2, vector: { text: 'Truck!' } }, { id: 3, vector: { text: '猫' } }, { id: 4, vector: { text: 'zyxwvut' } }] });
    assert.equal(upsert.status, 200, upsert.error);
    for (let round = 0; round < 2; round++) {
      assert.deepEqual(ids(await ask(name, 'Cat')).slice(0, 2), [3, 1]);
      assert.equal(ids(await ask(name, 'car')).filter((id) => id !== 4)[0], 2);
      assert.equal(ids(await ask(name, 'zyxwvut'))[0], 4, 'a word nobody knows finds itself');
      await restart();
    }
    const stored = await api('POST', `/collections/${name}/points`, { ids: [1], with_vector: true });
    assert.ok(Math.abs(Math.hypot(...stored.result[0].vector) - 1) < 1e-5, 'vectors have length 1');
  });
}

test('a text with nothing to encode is a 422 and changes nothing', async () => {
  for (const text of ['', ' \n']) {
    assert.equal((await ask('glove', text)).status, 422);
    const upsert = await api('PUT', '/collections/glove/points', { points: [{ id: 8, vector: { text: 'cat' } }, { id: 9, vector: { text } }] });
    assert.equal(upsert.status, 422);
    assert.match(upsert.error, /^points\[1\]\.vector\.text: /);
  }
  assert.equal((await api('POST', '/collections/glove/points/count', {})).result.count, 4);
});

test('what cannot be an encoder is refused, and says which field', async () => {
  writeFileSync(file('short.txt'), 'cat 1 2 3\ndog 1 2\n');
  writeFileSync(file('nan.txt'), 'cat nan 2 3\ndog 1 2 3\n');
  writeFileSync(file('empty.txt'), '');
  writeFileSync(file('cut.bin'), binary.subarray(0, 50));
  writeFileSync(file('garbage.kwv'), 'garbage');
  const wrong = [
    [{ kind: 'wordvec' }, /^encoder\.file: /], [{ kind: 'wordvec', file: 'nope.txt' }, /^encoder\.file/],
    [{ kind: 'wordvec', file: '../glove.txt' }, /^encoder\.file/], [{ kind: 'wordvec', file: 'a/b' }, /^encoder\.file/],
    [{ kind: 'wordvec', file: 'glove.txt', dictionary: 'nope' }, /^encoder\.dictionary/],
    [{ kind: 'wordvec', file: 'glove.txt', dim: 7 }, /^encoder\.dim/], [{ kind: 'ngram', dim: 8 }, /^encoder\.dim is 8.* 16 to 8192/],
    [{ kind: 'ngram', file: 'glove.txt' }, /^encoder\.file: /], [{ kind: 'ngram', dictionary: 'x' }, /^encoder\.dictionary: /],
    [{ kind: 'wordvec', flie: 'x' }, /^encoder\.flie: /], [{ kind: 'bert' }, /^encoder\.kind: /], ['ngram', /^encoder: /],
    [{ kind: 'wordvec', file: 'glove.txt', sif_a: 2 }, /^encoder\.sif_a: /],
    ...['short.txt', 'nan.txt', 'empty.txt', 'cut.bin', 'garbage.kwv'].map((name) => [{ kind: 'wordvec', file: name }, new RegExp(name)]),
  ];
  for (const [encoder, message] of wrong) {
    const answer = await create('wrong', encoder);
    assert.ok(answer.status >= 400 && answer.status < 500, `${JSON.stringify(encoder)}: ${answer.status} ${answer.error}`);
    assert.match(answer.error, message);
  }
  const sizes = await create('wrong', { kind: 'wordvec', file: 'glove.txt' }, { vectors: { size: 5, distance: 'Cosine' } });
  assert.match(sizes.error, /^vectors\.size: /);
  assert.equal((await api('GET', '/collections/wrong/exists')).result.exists, false);
});

test('a damaged table is made again from its source', async () => {
  await kith.stop();
  const table = readFileSync(file('glove.txt.kwv'));
  table[table.length - 20] ^= 0xff;
  writeFileSync(file('glove.txt.kwv'), table);
  kith = await startKith(['--encoders', files], kith.dir);
  assert.deepEqual(ids(await ask('glove', 'cat')).slice(0, 2), [3, 1]);
});

test('without its file a collection takes vectors, and refuses texts until the very same file is back', async () => {
  const source = readFileSync(file('w2v.txt'));
  await kith.stop();
  rmSync(file('w2v.txt'));
  rmSync(file('w2v.txt.kwv'));
  kith = await startKith(['--encoders', files], kith.dir);
  let answer = await ask('w2v-text', 'cat');
  assert.equal(answer.status, 503);
  assert.match(answer.error, /w2v\.txt/);
  assert.equal((await api('POST', '/collections/w2v-text/points/query', { query: [1, 0, 0, 0] })).status, 200);
  writeFileSync(file('w2v.txt'), source.toString().replace('cat 1 0 0 0', 'cat 0 0 1 0'));
  for (let i = 0; i < 2; i++) { // once while it is opened, once when it is there
    answer = await ask('w2v-text', 'cat');
    assert.equal(answer.status, 503, 'another file gives vectors that cannot be compared with those stored');
    assert.match(answer.error, /have changed since the collection was made/);
  }
  writeFileSync(file('w2v.txt'), source);
  await restart();
  assert.deepEqual(ids(await ask('w2v-text', 'cat')).slice(0, 2), [3, 1]);
  await restart([]);
  assert.match((await ask('w2v-text', 'cat')).error, /--encoders/);
  await restart();
});

test('while a big file is converted, others are answered', async () => {
  const out = openSync(file('big.txt'), 'w');
  for (let i = 0; i < 60; i++) {
    let lines = '';
    for (let j = 0; j < 1000; j++) lines += `w${i * 1000 + j}${` 0.${(j * 7919) % 9973}`.repeat(50)}\n`;
    writeSync(out, lines);
  }
  closeSync(out);
  let over = false;
  const creating = create('big', { kind: 'wordvec', file: 'big.txt' }).finally(() => { over = true; });
  let answered = 0;
  while (!over) {
    assert.equal((await ask('glove', `cat ${answered}`)).status, 200);
    if (!over) answered++;
  }
  assert.equal((await creating).status, 200);
  assert.ok(answered >= 5, `${answered} answers meanwhile`);
});

test('texts are encoded once: the cache is counted', async () => {
  const count = async (what) => Number(new RegExp(`^kith_encode_cache_${what}_total (\\d+)$`, 'm').exec(await (await fetch(`${kith.url}/metrics`)).text())[1]);
  const [hits, misses] = [await count('hits'), await count('misses')];
  for (let i = 0; i < 5; i++) await ask('glove', 'a text asked five times');
  assert.equal(await count('misses'), misses + 1);
  assert.equal(await count('hits'), hits + 4);
});
