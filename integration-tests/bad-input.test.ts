import assert from 'node:assert/strict';
import { once } from 'node:events';
import { mkdir, mkdtemp, readdir, rm, writeFile } from 'node:fs/promises';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { encodeModel } from '@plumb/diffusion';
import { plumb } from './support/command-line.ts';
import { smallModel } from './support/small-world.ts';

const folder = await mkdtemp(join(tmpdir(), 'plumb bad input '));
after(() => rm(folder, { recursive: true, force: true }));

const weights = join(folder, 'small.safetensors');
await writeFile(weights, encodeModel(smallModel('bad input')));

/** Runs `plumb` in an empty folder, and checks that it leaves the folder empty and says one line on standard error. */
async function refused(args: readonly string[], exitCode: number, ...patterns: RegExp[]): Promise<void> {
  const cwd = await mkdtemp(join(folder, 'empty '));
  const { code, stdout, stderr } = await plumb(args, cwd);
  assert.equal(stdout, '');
  assert.match(stderr, /^plumb: .+$/);
  for (const pattern of patterns) assert.match(stderr, pattern);
  assert.equal(code, exitCode, stderr);
  assert.deepEqual(await readdir(cwd), []);
}

test('an unknown flag is named with the nearest valid one', async () => {
  await refused(['demo', '--frsh'], 2, /'--frsh'/, /--fresh/);
  await refused(['demo', '--sed=3'], 2, /'--sed'/, /--seed/);
});

test('an unknown command is named with the nearest valid one', async () => {
  await refused(['dmo'], 2, /'dmo'/, /demo/);
});

test('a value out of range is named with its flag and the fix', async () => {
  await refused(['demo', '--steps', '0'], 2, /--steps/, /'0'/, /from 1 on/);
  await refused(['up', '--port', 'lop=4000'], 2, /--port/, /loop/);
});

test('a state folder that cannot be written is named with the way out', async () => {
  const file = join(folder, 'a file');
  await writeFile(file, '');
  await refused(['up', '--state', join(file, 'state')], 1, /a file\/state cannot be written/, /--state/);
});

test('a folder of other files is not taken for a state folder', async () => {
  const photos = join(folder, 'photos');
  await mkdir(photos, { recursive: true });
  await writeFile(join(photos, 'holiday.png'), '');
  await refused(
    ['demo', '--fresh', '--weights', weights, '--prompts', await promptSet('red square'), '--state', photos],
    1,
    /photos is not a Plumb state folder/,
    /--state/,
  );
  assert.deepEqual(await readdir(photos), ['holiday.png']);
});

test('a report that cannot be written is refused before anything is done', async () => {
  await refused(['demo', '--report', folder], 1, /is a folder/, /--report/);
});

test('a busy port is named with the component and the way out', async () => {
  const server = createServer().listen(0, '127.0.0.1');
  await once(server, 'listening');
  const address = server.address();
  assert.ok(typeof address === 'object' && address !== null);
  await using state = {
    path: join(folder, 'busy'),
    [Symbol.asyncDispose]: () => rm(join(folder, 'busy'), { recursive: true }),
  };
  const { code, stderr } = await plumb(
    ['up', '--state', state.path, '--port', `loop=${address.port}`],
    folder,
  );
  server.close();
  assert.equal(code, 1);
  assert.match(stderr, new RegExp(`plumb: port ${address.port} for loop is busy; .*--port loop=<port>`));
});

test('weights that are missing, cut short or changed are named with the fix', async () => {
  const missing = join(folder, 'no.safetensors');
  await refused(['demo', '--weights', missing], 1, /no\.safetensors/, /git checkout/);
  const bytes = encodeModel(smallModel('corrupt'));
  const cut = join(folder, 'cut.safetensors');
  await writeFile(cut, bytes.subarray(0, bytes.length - 100));
  await refused(['demo', '--weights', cut], 1, /cut\.safetensors is corrupt/, /git checkout/);
  const text = join(folder, 'text.safetensors');
  await writeFile(text, 'version https://git-lfs.github.com/spec/v1\n');
  await refused(['demo', '--weights', text], 1, /text\.safetensors is corrupt/, /git checkout/);
});

test('an unknown word in a prompt is named with the prompt', async () => {
  const prompts = await promptSet('the red zeppelin falls');
  await refused(
    ['demo', '--weights', weights, '--prompts', prompts],
    1,
    /zeppelin/,
    /mine\/1/,
    /words that the model knows/,
  );
});

test('a prompt set that is poisoned is refused with its file, its prompts and the fix', async () => {
  const prompt = (id: string, text: string, split = 'train', category = 'FD') => ({
    id,
    text,
    category,
    split,
  });
  const good = [prompt('a/1', 'red ball falls'), prompt('a/2', 'blue ball falls', 'heldout')];
  const sets: readonly [name: string, prompts: unknown[], categories: string[], ...patterns: RegExp[]][] = [
    ['twins', [...good, prompt('a/3', 'Red  ball falls')], ['FD'], /\(a\/3\)\.text/, /a\/1/, /remove one/],
    ['ids', [...good, prompt('a/1', 'green ball falls')], ['FD'], /\(a\/1\)\.id/, /its own id/],
    ['leak', [...good, prompt('a/3', 'red ball falls', 'heldout')], ['FD'], /\(a\/3\)/, /trained on/],
    ['empty', good, ['FD', 'OR'], /OR has no train prompt/, /OR has no heldout prompt/],
    ['long', [...good, prompt('a/3', 'red '.repeat(2500))], ['FD'], /\(a\/3\)\.text/, /2000/],
  ];
  for (const [name, prompts, categories, ...patterns] of sets) {
    const set = join(folder, `${name}.json`);
    await writeFile(set, JSON.stringify({ version: '1.0.0', categories, prompts }));
    const spec = join(folder, `${name}.yaml`);
    await writeFile(spec, `model: ${JSON.stringify(weights)}\nprompts: { set: ${name}.json }\n`);
    await refused(['run', 'create', spec], 1, new RegExp(`${name}\\.json`), ...patterns);
  }
});

async function promptSet(text: string): Promise<string> {
  const path = join(folder, `prompts ${text}.json`);
  await writeFile(
    path,
    JSON.stringify({
      version: '1.0.0',
      categories: ['FD'],
      prompts: [
        { id: 'mine/1', text, category: 'FD', split: 'train' },
        { id: 'mine/2', text: 'the red ball falls', category: 'FD', split: 'heldout' },
      ],
    }),
  );
  return path;
}
