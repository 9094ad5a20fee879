// Short English texts: the descriptions in Debian 12's package index, cut into passages of one to
// three sentences. The machine's own apt settings are used, with lists of its own, so that nothing of
// the system changes; main of bookworm alone, because its descriptions are the same for good but for a
// point release.
import { execFileSync } from 'node:child_process';
import fs from 'node:fs';
import path from 'node:path';
import { folder, say, sha256, shuffled, SEED } from './lib.mjs';

const TEXT_SHA256 = '62f59c3cdca9786e4f7adf9002f9f5729a684adcb4667e58e448dec9b5a46c7f';
const CHARS_MAX = 220;
const CHARS_MIN = 40;

function descriptions() {
  const dir = folder('debian');
  const file = path.join(dir, 'descriptions');
  if (!fs.existsSync(file)) {
    say("fetching the package descriptions of Debian 12 (licence: each package's own; nothing of them is shipped)");
    const lists = path.join(dir, 'lists');
    fs.mkdirSync(path.join(lists, 'partial'), { recursive: true });
    const options = ['-o', `Dir::State::lists=${lists}`, '-o', 'Dir::Cache::pkgcache=', '-o', 'Dir::Cache::srcpkgcache=', '-o', 'Acquire::Languages=en', '-o', 'APT::Sandbox::User=root'];
    execFileSync('apt-get', [...options, '-qq', 'update'], { stdio: ['ignore', 'ignore', 'inherit'] });
    const filters = ['Created-By: Translations', 'Language: en', 'Codename: bookworm', 'Component: main'];
    const found = execFileSync('apt-get', [...options, 'indextargets', '--format', '$(FILENAME)', ...filters], { encoding: 'utf8' });
    const list = found.split('\n').find((name) => name && !/updates|security|backports/.test(path.basename(name)));
    if (!list) throw new Error("the machine's apt sources have no English descriptions of Debian 12 (bookworm main)");
    fs.writeFileSync(`${file}.part`, execFileSync('/usr/lib/apt/apt-helper', ['cat-file', list], { maxBuffer: 1 << 28 }));
    fs.renameSync(`${file}.part`, file);
    fs.rmSync(lists, { recursive: true });
  }
  if (sha256(file) !== TEXT_SHA256)
    say('note: Debian has other descriptions today than when the figures were taken (a point release): recall and rates may differ a little');
  return fs.readFileSync(file, 'utf8');
}

const cut = (text) => (text.length <= CHARS_MAX ? text : text.slice(0, text.lastIndexOf(' ', CHARS_MAX)));

function* passagesOf(record) {
  const lines = record.split('\n');
  const at = lines.findIndex((line) => line.startsWith('Description-en: '));
  if (at < 0) return;
  const long = lines.slice(at + 1).filter((line) => line !== ' .').join(' ').replace(/\s+/g, ' ');
  const sentences = long.match(/[^.!?]+(?:[.!?]+(?!\s|$)[^.!?]*)*[.!?]*\s*/g) || [];
  let text = `${lines[at].slice(16).trim()}.`;
  for (const sentence of sentences.map((s) => s.trim()).filter(Boolean)) {
    if (text.length > CHARS_MIN && text.length + sentence.length + 1 > 200) {
      yield cut(text);
      text = sentence;
    } else {
      text += ` ${sentence}`;
    }
  }
  if (text.length > CHARS_MIN) yield cut(text);
}

// Distinct passages in a seeded order, so that any beginning of them is a sample.
export function passages() {
  const distinct = new Set();
  for (const record of descriptions().split('\n\n')) for (const text of passagesOf(record)) distinct.add(text);
  const all = [...distinct];
  return Array.from(shuffled(all.length, SEED), (i) => all[i]);
}
