import assert from 'node:assert/strict';
import { appendFile, cp, mkdtemp, open, readFile, rm, truncate, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { readPipelineFolder } from './pipeline-folder.ts';

const fixture = fileURLToPath(new URL('../fixtures/wan', import.meta.url));
const scratch = await mkdtemp(join(tmpdir(), 'plumb-pipelines-'));
after(() => rm(scratch, { recursive: true }));

let copies = 0;

/** A copy of the pipeline that `spoil` has changed; SHA256SUMS is left out unless it is what is tested. */
async function spoilt(spoil: (folder: string) => Promise<void>, keepSums = false): Promise<string> {
  const folder = join(scratch, String(copies++));
  await cp(fixture, folder, { recursive: true });
  if (!keepSums) await rm(join(folder, 'SHA256SUMS'));
  await spoil(folder);
  return folder;
}

async function edit(file: string, change: (json: Record<string, unknown>) => unknown): Promise<void> {
  const json = JSON.parse(await readFile(file, 'utf8')) as Record<string, unknown>;
  await writeFile(file, JSON.stringify(change(json)));
}

/** Overwrites one byte in the middle of a file. */
async function alter(file: string): Promise<void> {
  const handle = await open(file, 'r+');
  const { size } = await handle.stat();
  await handle.write(Buffer.from([0xa5, 0x5a]), 0, 2, Math.floor(size / 2));
  await handle.close();
}

const cases: readonly {
  readonly name: string;
  readonly spoil: (folder: string) => Promise<void>;
  readonly keepSums?: boolean;
  readonly code: string;
  readonly message: RegExp;
}[] = [
  {
    name: 'a component is missing',
    spoil: (folder) => rm(join(folder, 'vae'), { recursive: true }),
    code: 'NOT_FOUND',
    message: /vae\/config\.json.*does not exist/,
  },
  {
    name: 'a graph is missing',
    spoil: (folder) => rm(join(folder, 'transformer/model.onnx')),
    code: 'NOT_FOUND',
    message: /transformer\/model\.onnx/,
  },
  {
    name: 'external data is absent',
    spoil: (folder) => rm(join(folder, 'transformer/model.onnx.data')),
    code: 'NOT_FOUND',
    message: /transformer\/model\.onnx.*model\.onnx\.data/,
  },
  {
    name: 'external data is cut off',
    spoil: (folder) => truncate(join(folder, 'transformer/model.onnx.data'), 1000),
    code: 'DATA_LOSS',
    message: /model\.onnx\.data/,
  },
  {
    name: 'external data is altered',
    spoil: (folder) => alter(join(folder, 'transformer/model.onnx.data')),
    keepSums: true,
    code: 'DATA_LOSS',
    message: /transformer\/model\.onnx: model\.onnx\.data is not the file/,
  },
  {
    name: 'a configuration is altered',
    spoil: (folder) => appendFile(join(folder, 'vae/config.json'), '\n'),
    keepSums: true,
    code: 'DATA_LOSS',
    message: /vae\/config\.json.*SHA256SUMS/,
  },
  {
    name: 'a graph is of an operator set that is too old',
    // The operator set is field 8 of the model: an empty domain is left out, so the message is `version = 18`.
    spoil: async (folder) => {
      const file = join(folder, 'vae/model.onnx');
      const bytes = await readFile(file);
      const at = bytes.indexOf(Buffer.from([0x10, 18]), bytes.length - 16);
      assert.ok(at > 0);
      bytes[at + 1] = 9;
      await writeFile(file, bytes);
    },
    code: 'INVALID_ARGUMENT',
    message: /vae\/model\.onnx.*operator set 9/,
  },
  {
    name: 'a graph is no graph',
    spoil: (folder) =>
      writeFile(join(folder, 'vae/model.onnx'), 'version https://git-lfs.github.com/spec/v1'),
    code: 'DATA_LOSS',
    message: /vae\/model\.onnx is not an ONNX model/,
  },
  {
    name: 'the scheduler is unknown',
    spoil: (folder) =>
      edit(join(folder, 'scheduler/scheduler_config.json'), (json) => ({
        ...json,
        _class_name: 'LCMScheduler',
      })),
    code: 'INVALID_ARGUMENT',
    message: /LCMScheduler.*scheduler_config\.json/,
  },
  {
    name: 'the tokeniser belongs to another text encoder',
    spoil: (folder) =>
      edit(join(folder, 'text_encoder/config.json'), (json) => ({ ...json, vocab_size: 10 })),
    code: 'INVALID_ARGUMENT',
    message: /tokenizer\.json has a token 19.*text_encoder\/config\.json says vocab_size 10/,
  },
  {
    name: 'the pipeline is of another class',
    spoil: (folder) =>
      edit(join(folder, 'model_index.json'), (json) => ({ ...json, _class_name: 'FluxPipeline' })),
    code: 'INVALID_ARGUMENT',
    message: /FluxPipeline.*model_index\.json.*WanPipeline/,
  },
  {
    name: 'a pipeline has two denoisers',
    spoil: (folder) => edit(join(folder, 'model_index.json'), (json) => ({ ...json, boundary_ratio: 0.875 })),
    code: 'INVALID_ARGUMENT',
    message: /boundary_ratio.*model_index\.json/,
  },
  {
    name: 'plumb.json asks for another size than was exported',
    spoil: (folder) => edit(join(folder, 'plumb.json'), (json) => ({ ...json, width: 64 })),
    code: 'INVALID_ARGUMENT',
    message: /plumb\.json.*hidden_states.*transformer\/model\.onnx was exported for/,
  },
  {
    name: 'plumb.json has a field that it cannot have',
    spoil: (folder) => edit(join(folder, 'plumb.json'), (json) => ({ ...json, fps: '16' })),
    code: 'INVALID_ARGUMENT',
    message: /fps.*plumb\.json/,
  },
  {
    name: 'the configuration of the VAE lacks a field',
    spoil: (folder) => edit(join(folder, 'vae/config.json'), (json) => ({ ...json, latents_mean: null })),
    code: 'INVALID_ARGUMENT',
    message: /latents_mean.*vae\/config\.json/,
  },
];

for (const { name, spoil, keepSums, code, message } of cases) {
  test(`refused with the file named: ${name}`, async () => {
    await assert.rejects(
      readPipelineFolder(await spoilt(spoil, keepSums)),
      (error: Error & { code?: string }) => {
        assert.equal(error.code, code, error.message);
        assert.match(error.message, message);
        return true;
      },
    );
  });
}

test('a folder without hashes is read, and lists the files that sampling needs', async () => {
  const { files, denoiser, settings } = await readPipelineFolder(await spoilt(async () => {}));
  assert.deepEqual(files, [
    'model_index.json',
    'plumb.json',
    'scheduler/scheduler_config.json',
    'text_encoder/config.json',
    'text_encoder/model.onnx',
    'text_encoder/model.onnx.data',
    'tokenizer/tokenizer.json',
    'transformer/config.json',
    'transformer/model.onnx',
    'transformer/model.onnx.data',
    'vae/config.json',
    'vae/model.onnx',
    'vae/model.onnx.data',
  ]);
  assert.equal(denoiser.opset, 18);
  assert.deepEqual([settings.width, settings.height, settings.frames, settings.fps], [32, 16, 5, 16]);
});

test('words that a vocabulary does not have are its token for unknown words', async () => {
  const { tokenise } = await readPipelineFolder(fixture);
  assert.deepEqual(tokenise('a purple ball').ids.slice(0, 4), [3, 2, 7, 1]);
});
