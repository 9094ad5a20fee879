// kill -9 at a random moment under write load, 300 times: every acknowledged write is there afterwards, and no deleted point
// comes back. (That an fdatasync is really waited for is the power-loss test's business: kill -9 cannot show it.)
import assert from 'node:assert/strict';
import { after, test } from 'node:test';
import { random, startKith } from '../client/harness.mjs';
import { WriteOracle } from './harness.mjs';

const seed = Number(process.env.SEED ?? Date.now() % 1e9);
const cycles = Number(process.env.KITH_KILL_CYCLES ?? 300);
console.log(`SEED=${seed} KITH_KILL_CYCLES=${cycles}`);
const next = random(seed);
const DIM = 16;
const IDS = 500;

let kith;
after(() => { kith?.child.kill('SIGKILL'); kith?.remove(); });

async function send(method, path, body) {
  const answer = await fetch(kith.url + path, { method, headers: { 'content-type': 'application/json' }, body: JSON.stringify(body) });
  const json = await answer.json();
  if (answer.status !== 200) throw new Error(`${path}: ${answer.status} ${JSON.stringify(json)}`);
  return json.result;
}

// A delete is a version too: `deleted` remembers which of an id's versions were deletions.
test(`${cycles} kills lose no acknowledged write`, async () => {
  const oracle = new WriteOracle();
  const deletions = new Map();
  const busy = new Set();
  kith = await startKith();
  await send('PUT', '/collections/c', { vectors: { size: DIM, distance: 'Dot' } });

  async function writeOnce() {
    const points = [];
    const gone = [];
    for (let i = 0; i < 20; i++) {
      const id = Math.floor(next() * IDS);
      if (busy.has(id)) continue;
      busy.add(id);
      const version = oracle.next(id);
      if (next() < 0.2) {
        deletions.set(`${id}:${version}`, true);
        gone.push({ id, version });
      } else points.push({ id, vector: Array.from({ length: DIM }, () => next()), payload: { version } });
    }
    const run = async (list, work) => {
      try { if (list.length > 0) { await work(); for (const p of list) oracle.acked(p.id, p.version ?? p.payload.version); } } catch { /* unknown: it may or may not have happened */ }
    };
    await run(points, () => send('PUT', '/collections/c/points?wait=true', { points }));
    await run(gone, () => send('POST', '/collections/c/points/delete?wait=true', { points: gone.map((p) => p.id) }));
    for (const p of [...points, ...gone]) busy.delete(p.id);
  }

  async function verify(cycle) {
    const found = new Map();
    let offset = null;
    do {
      const page = await send('POST', '/collections/c/points/scroll', { limit: 1000, offset });
      for (const p of page.points) found.set(p.id, p.payload.version);
      offset = page.next_page_offset ?? null;
    } while (offset !== null);
    for (const [id, { acked, tried }] of oracle.ids) {
      const value = found.get(id);
      if (value !== undefined) {
        assert.ok(value >= acked && value <= tried, `cycle ${cycle}, point ${id}: version ${value}, acknowledged ${acked}, tried ${tried} (SEED=${seed})`);
      } else {
        // Not there: some version in [acked, tried] must be a deletion, or nothing was acknowledged.
        let excused = acked === 0;
        for (let v = acked; v <= tried && !excused; v++) excused = deletions.has(`${id}:${v}`);
        assert.ok(excused, `cycle ${cycle}, point ${id}: gone, but version ${acked} was acknowledged (SEED=${seed})`);
      }
    }
    return found.size;
  }

  let acknowledged = 0;
  for (let cycle = 0; cycle < cycles; cycle++) {
    let stop = false;
    const writers = Array.from({ length: 4 }, async () => { while (!stop) await writeOnce(); });
    // The kill falls at a random moment of the load; nothing is waited for but time itself.
    await new Promise((resolve) => setTimeout(resolve, 5 + next() * 60));
    kith.child.kill('SIGKILL');
    stop = true;
    await Promise.all([...writers, kith.ended]);
    kith = await startKith([], kith.dir);
    acknowledged = await verify(cycle);
  }
  const total = [...oracle.ids.values()].reduce((sum, e) => sum + e.acked, 0);
  console.log(`${cycles} cycles, ${total} acknowledged versions, ${acknowledged} points alive`);
  assert.ok(total > cycles, 'the load was real');
});
