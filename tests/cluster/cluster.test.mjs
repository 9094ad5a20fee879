// A 3-shard cluster on a real etcd, killed and restarted piece by piece, keeps every acknowledged point and never gives an
// incomplete answer that looks complete.
import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import { Cluster, WriteOracle } from './harness.mjs';
import { random } from '../client/harness.mjs';

const seed = Number(process.env.SEED ?? Date.now() % 1e9);
console.log(`SEED=${seed}`);
const next = random(seed);
const DIM = 8;
const vector = () => Array.from({ length: DIM }, () => next() * 2 - 1);

describe('cluster', () => {
  let cluster;
  const oracle = new WriteOracle();

  before(async () => {
    cluster = await Cluster.start({ shards: 3, coordinators: 2 });
    await cluster.ask('PUT', '/collections/c', { vectors: { size: DIM, distance: 'Cosine' } });
  });
  after(() => cluster?.stop());

  // Each id has one writer (its lane), so versions of an id are tried one after the other.
  async function write(count, url, lane = 0) {
    const points = [];
    for (let i = 0; i < count; i++) {
      const id = 2 * Math.floor(next() * 200) + lane;
      if (points.some((p) => p.id === id)) continue;
      points.push({ id, vector: vector(), payload: { version: oracle.next(id) } });
    }
    const answer = await cluster.send('PUT', '/collections/c/points?wait=true', { points }, url).catch(() => null);
    if (answer?.status === 200) for (const p of points) oracle.acked(p.id, p.payload.version);
    await answer?.text();
    return answer?.status ?? 0;
  }

  async function readAll() {
    const found = new Map();
    let offset = null;
    do {
      const { result } = await cluster.ask('POST', '/collections/c/points/scroll', { limit: 100, offset });
      for (const p of result.points) found.set(p.id, p.payload.version);
      offset = result.next_page_offset;
    } while (offset !== null && offset !== undefined);
    return found;
  }

  async function verify(context) {
    const found = await readAll();
    const problems = [...oracle.ids.keys()].map((id) => oracle.problem(id, found.get(id))).filter(Boolean);
    assert.deepEqual(problems, [], context);
    for (const id of found.keys()) assert.ok(oracle.ids.has(id), `${context}: point ${id} was never written`);
  }

  const healthy = () => cluster.poll('complete answers', async () => (await cluster.send('POST', '/collections/c/points/count', {})).status === 200);

  test('slices are spread over the shards', async () => {
    const { result } = await cluster.ask('GET', '/collections/c/cluster');
    const slices = [...result.local_shards, ...result.remote_shards];
    assert.equal(result.shard_count, 6);
    const perNode = {};
    for (const s of slices) perNode[s.peer_id ?? 'local'] = (perNode[s.peer_id ?? 'local'] ?? 0) + 1;
    assert.deepEqual(Object.values(perNode), [2, 2, 2]);
  });

  test('each shard tells its own numbers', async () => {
    for (const shard of cluster.shards) {
      const [, url] = await shard.until(/metrics: (http:\S+)/);
      const text = await (await fetch(url)).text();
      assert.match(text, /^kith_shard_slices\{state="open"\} 2$/m);
      assert.match(text, /^kith_shard_writer_pause_seconds_max [\d.e-]+$/m);
      assert.equal((await fetch(new URL('/collections', url))).status, 404);
    }
  });

  test('writes and reads through both coordinators', async () => {
    for (let i = 0; i < 20; i++) assert.equal(await write(30, cluster.coordinators[i % 2].url), 200);
    await verify('healthy');
    const { result } = await cluster.ask('POST', '/collections/c/points/count', {}, cluster.coordinators[1].url);
    assert.equal(result.count, oracle.ids.size);
  });

  test('a dead shard: an error by default, a partial answer only on request, then everything again', async () => {
    await cluster.shards[1].kill('SIGKILL');
    const query = { query: vector(), limit: 5 };
    const refused = await cluster.send('POST', '/collections/c/points/query', query);
    assert.ok([503, 504].includes(refused.status), `status ${refused.status}`);
    assert.match((await refused.json()).status.error, /slice/);
    const partial = await cluster.send('POST', '/collections/c/points/query', { ...query, params: { min_coverage: 0.1 } });
    const body = await partial.json();
    assert.equal(partial.status, 200, JSON.stringify(body));
    assert.equal(body.coverage.complete, false);
    assert.deepEqual([body.coverage.slices.total, body.coverage.slices.ok], [6, 4]);
    assert.equal(body.coverage.slices.failed + body.coverage.slices.timed_out, 2);
    assert.equal(partial.headers.get('x-search-complete'), 'false');
    const tooLittle = await cluster.send('POST', '/collections/c/points/query', { ...query, params: { min_coverage: 0.9 } });
    assert.ok([503, 504].includes(tooLittle.status));
    await tooLittle.text();
    assert.notEqual(await write(30), 200, 'a write that needs the dead shard is not acknowledged');
    cluster.shards[1].start();
    await cluster.shards[1].until(/ready/i);
    await healthy();
    await verify('after the shard came back');
  });

  test('losing etcd changes nothing for reads and writes', async () => {
    await cluster.etcd.kill('SIGKILL');
    for (let i = 0; i < 20; i++) assert.equal(await write(20, cluster.coordinators[i % 2].url), 200);
    await verify('without etcd');
    await cluster.shards[2].kill('SIGKILL');
    cluster.shards[2].start();
    await cluster.poll('a shard restarted without etcd serves', async () => (await cluster.send('POST', '/collections/c/points/count', {})).status === 200);
    await verify('a shard restarted without etcd');
    const create = await cluster.send('PUT', '/collections/later?timeout=1', { vectors: { size: 4, distance: 'Dot' } });
    assert.ok(create.status >= 500, `status ${create.status}`);
    await create.text();
    cluster.etcd.start();
    await cluster.poll('changes of the map work again', async () => (await cluster.send('PUT', '/collections/again', { vectors: { size: 4, distance: 'Dot' } })).status === 200 ||
      (await cluster.send('GET', '/collections/again')).status === 200);
    await verify('etcd is back');
  });

  test('the other coordinator leads when the first one dies', async () => {
    await cluster.coordinators[0].kill('SIGKILL');
    cluster.url = cluster.coordinators[1].url;
    await cluster.poll('a new leader places slices', async () => (await cluster.send('PUT', '/collections/led?timeout=5', { vectors: { size: 4, distance: 'Dot' } })).status === 200 ||
      (await cluster.send('GET', '/collections/led/exists').then((a) => a.json())).result.exists, 60000);
    await verify('new leader');
    cluster.coordinators[0].start();
    await cluster.coordinators[0].until(/http:\/\//);
    await cluster.poll('the first coordinator sees the collection', async () => (await cluster.send('GET', '/collections/led', undefined, cluster.coordinators[0].url)).status === 200);
  });

  // As many points as an index needs lie on no node, and only on two of the three while the codebook is made.
  test('all nodes come to have one codebook, also those that were away', async () => {
    const upsert = async (from, count) => {
      for (let first = from; first < from + count; first += 2000) {
        const points = Array.from({ length: 2000 }, (_, i) => ({ id: first + i, vector: vector().slice(0, 2) }));
        await cluster.send('PUT', '/collections/indexed/points', { points }).then((a) => a.text());
      }
    };
    const codebook = async () => {
      const { kith } = (await cluster.ask('GET', '/collections/indexed')).result;
      return { slices: kith.slices_answered, generation: kith.index.generation, hash: kith.index.codebook };
    };
    const settled = async (slices) => {
      await cluster.poll(`one codebook on ${slices} slices`, async () => {
        const { slices: answered, hash } = await codebook();
        return answered === slices && hash;
      });
      return codebook();
    };
    await cluster.ask('PUT', '/collections/indexed', { vectors: { size: 2, distance: 'Euclid' } });
    const { peers } = (await cluster.ask('GET', '/cluster')).result;
    const { remote_shards: slices } = (await cluster.ask('GET', '/collections/indexed/cluster')).result;
    const [trainer] = Object.keys(peers).filter((id) => Number(id) === slices[0].peer_id).map((id) => peers[id].uri);
    const first = cluster.shards.findIndex(({ args }) => trainer.endsWith(`//${args[args.indexOf('--listen') + 1]}`));
    const away = cluster.shards[(first + 1) % 3];
    const restart = async (node) => {
      await node.kill('SIGKILL');
      node.start();
      await node.until(/ready/i);
    };
    await upsert(0, 12000);
    await away.kill('SIGKILL');
    await upsert(12000, 20000); // not acknowledged, and two thirds of it are there
    const trained = await settled(4);
    assert.equal(trained.generation, 1);
    away.start();
    await away.until(/ready/i);
    assert.deepEqual(await settled(6), { ...trained, slices: 6 });
    await restart(cluster.shards[first]);
    assert.deepEqual(await settled(6), { ...trained, slices: 6 });
    await healthy();
  });

  test('random kills under writes: nothing acknowledged is lost', async () => {
    const rounds = Number(process.env.KITH_CLUSTER_ROUNDS ?? 12);
    for (let round = 0; round < rounds; round++) {
      const writers = [0, 1].map(async (w) => { for (let i = 0; i < 12; i++) await write(15, cluster.coordinators[w].url, w); });
      const victim = cluster.shards[Math.floor(next() * 3)];
      await victim.kill('SIGKILL');
      victim.start();
      await Promise.all([...writers, victim.until(/ready/i)]);
      await healthy();
      await verify(`round ${round}`);
    }
  });

  test('deleted collections stay deleted on a shard that was away', async () => {
    await cluster.shards[0].kill('SIGKILL');
    await cluster.send('DELETE', '/collections/c?timeout=2').then((a) => a.text());
    cluster.shards[0].start();
    await cluster.shards[0].until(/ready/i);
    await cluster.poll('it is gone', async () => (await cluster.send('GET', '/collections/c/exists').then((a) => a.json())).result.exists === false);
    await cluster.ask('PUT', '/collections/c', { vectors: { size: DIM, distance: 'Cosine' } });
    assert.equal((await cluster.ask('POST', '/collections/c/points/count', {})).result.count, 0);
  });
});
