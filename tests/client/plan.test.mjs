// `kith plan` says beforehand what a collection takes: here is one, and what it took.
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { appendFileSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { test } from 'node:test';
import { random, startKith } from './harness.mjs';

const binary = process.env.KITH ?? new URL('../../build/release/kith', import.meta.url).pathname;
const seed = Number(process.env.SEED ?? Date.now() % 1e9);
console.log(`SEED=${seed}`);
const ROWS = 60000, DIM = 128, BATCH = 1000;

const whole = async (url, method, body) => {
  const answer = await fetch(url, { method, headers: { 'content-type': 'application/json' }, body: body && JSON.stringify(body) });
  assert.equal(answer.status, 200, `${method} ${url}`);
  return answer.json();
};
const post = async (url, method, body) => (await whole(url, method, body)).result;

// Vectors in clusters, as real ones are.
function* batches(next) {
  const centers = Array.from({ length: 200 }, () => Array.from({ length: DIM }, () => next() * 2 - 1));
  for (let first = 0; first < ROWS; first += BATCH)
    yield Array.from({ length: BATCH }, (_, i) => ({ id: first + i, vector: centers[Math.floor(next() * 200)].map((x) => +(x + (next() - 0.5) * 0.6).toFixed(4)) }));
}

const near = (got, want, what) => assert.ok(Math.abs(got - want) <= 0.1 * want, `${what}: predicted ${want}, it took ${got}`);

for (const quantization of ['pq4', 'int8']) {
  test(`plan and a collection agree: ${quantization}`, async (t) => {
    const kith = await startKith(['--recall-one-in', '1']);
    t.after(async () => { await kith.stop(); kith.remove(); });
    const collection = `${kith.url}/collections/real`;
    await post(collection, 'PUT', { vectors: { size: DIM, distance: 'Cosine' }, quantization });
    for (const points of batches(random(seed))) await post(`${collection}/points?wait=true`, 'PUT', { points });
    let info;
    const status = execFileSync(binary, ['status', '--url', kith.url]).toString();
    assert.ok(/indexing real .*points, (training|building) generation|collections +1/s.test(status), status);
    do info = await post(collection, 'GET'); while (info.status !== 'green' || info.kith.index.phase !== 'ready' || info.indexed_vectors_count < ROWS); // heads at rest, too
    const memory = await post(`${kith.url}/v1/collections/real/memory`, 'GET');
    const planned = (...options) => JSON.parse(execFileSync(binary, ['plan', '--quantization', quantization, '--json', ...options], { stdio: ['ignore', 'pipe', 'ignore'] }));
    const plan = planned('--rows', ROWS, '--dim', DIM);
    console.log(`${quantization}: disk ${memory.total.file} of ${plan.disk}, memory ${memory.total.mapped} of ${plan.memory}`);
    for (const section of ['rows', 'rows8', 'codes', 'ids', 'heads'])
      if (plan.sections[section].mapped > 0) near(memory.sections[section].mapped, plan.sections[section].mapped, section);
    near(memory.total.file, plan.disk, 'disk');
    near(memory.total.mapped, plan.memory, 'memory');
    assert.ok(memory.total.resident <= memory.total.mapped && memory.total.resident > 0.2 * memory.total.mapped);
    assert.ok(plan.memory_least <= plan.memory && plan.index_us > 0 && plan.exact_us > 0);
    // The same with a sample of the vectors themselves: it says how large the plan is, and of what dimension.
    const sample = path.join(mkdtempSync(path.join(tmpdir(), 'kith-plan-')), 'sample.jsonl');
    t.after(() => rmSync(path.dirname(sample), { recursive: true }));
    for (const points of batches(random(seed))) appendFileSync(sample, points.map((point) => JSON.stringify(point) + '\n').join(''));
    const own = planned('--sample', sample);
    near(own.disk, plan.disk, 'disk by a sample');
    assert.ok(own.tried === ROWS - 1000 && own.index_us > 0 && own.recall > 0.85 && own.recall <= 1, JSON.stringify(own));
    const hits = await post(`${collection}/points/query`, 'POST', { query: Array(DIM).fill(0.5), params: { recall: 0.9, explain: true } });
    assert.equal(hits.points.length, 10);
    // Without rescoring no row is read, and scores are about the same.
    const [ranked, bytes] = await Promise.all([true, false].map((rescore) => whole(`${collection}/points/query`, 'POST', { query: 0, params: { recall: 0.9, explain: true, quantization: { rescore } } })));
    const read = (of) => of.explain[0].nodes.reduce((sum, node) => sum + node.reranked_exactly, 0);
    assert.ok(read(ranked) >= 10 && read(bytes) === 0, `${read(ranked)} and ${read(bytes)} rows read: ${JSON.stringify(bytes.explain)}`);
    for (const { id, score } of bytes.result.points) for (const other of ranked.result.points) if (id === other.id) assert.ok(Math.abs(score - other.score) < 0.01, `${id}: ${score}, ${other.score}`);
    // What queries really find is measured on the way.
    const next = random(seed + 1);
    let said = null;
    while (!said) {
      for (let i = 0; i < 5; i++) await post(`${collection}/points/query`, 'POST', { query: Array.from({ length: DIM }, () => next() - 0.5) });
      said = /^recall_at_k\{collection="real",plan="lists",selectivity="1"\} (.*)$/m.exec(await (await fetch(`${kith.url}/metrics`)).text());
    }
    assert.ok(said[1] >= 0 && said[1] <= 1, said[0]);
    console.log(said[0]);
  });
}
