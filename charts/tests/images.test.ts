/** The container files, as far as it goes without a container engine. */
import assert from 'node:assert/strict';
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { before, test } from 'node:test';
import { z } from 'zod';
import {
  bakeFile,
  builtImages,
  buildContext,
  repositorySources,
  stagesOf,
  workspaceClosure,
  workspaceFolders,
} from '../src/container-files.ts';
import type { Stage } from '../src/container-files.ts';
import { exampleFile, examples } from '../src/examples.ts';
import { render, root } from '../src/helm.ts';
import { podOf } from '../src/pods.ts';
import { objectsIn } from '../src/rendered.ts';

/** Images, and the workspace that each runs. */
const workspaces = {
  generator: 'services/generator',
  reward: 'services/reward',
  judge: 'services/judge',
  trainer: 'services/trainer',
  loop: 'services/loop',
  referee: 'packages/toybox',
} as const;
const names = Object.keys(workspaces) as (keyof typeof workspaces)[];

const last = (stages: readonly Stage[]): Stage => stages.at(-1) ?? assert.fail('there is no stage');
const one = (stage: Stage, keyword: string) =>
  stage.instructions.findLast((instruction) => instruction.keyword === keyword) ??
  assert.fail(`there is no ${keyword}`);

let context: string[];
/** What of the repository is in an image: its workspaces, and what is copied besides. */
const inImage = async (name: keyof typeof workspaces): Promise<string[]> => {
  const copied = repositorySources(last(await stagesOf(name)));
  const sources = [...(await workspaceClosure(workspaces[name])), ...copied];
  return context.filter((file) => sources.some((source) => file === source || file.startsWith(`${source}/`)));
};

before(async () => {
  context = await buildContext();
});

test('the base has the Node of the lock file and the list of packages of every workspace', async () => {
  const text = await readFile(join(root, 'deploy/images/base.Containerfile'), 'utf8');
  const { packages } = z
    .object({ packages: z.looseObject({ 'node_modules/node': z.object({ version: z.string() }) }) })
    .parse(JSON.parse(await readFile(join(root, 'package-lock.json'), 'utf8')));
  assert.match(
    text,
    new RegExp(`^ARG NODE_IMAGE=.*/node:${packages['node_modules/node'].version}-.*slim$`, 'm'),
  );
  const manifests = (await stagesOf('base')).find(({ name }) => name === 'manifests') ?? assert.fail();
  const copied = repositorySources(manifests);
  for (const folder of await workspaceFolders()) assert.ok(copied.includes(`${folder}/package.json`), folder);
  assert.ok(copied.includes('package-lock.json'));
});

test('containers are not root, and neither they nor their health checks need a shell', async () => {
  for (const variant of ['runtime-cpu', 'runtime-cuda']) {
    const stage = (await stagesOf('base')).find(({ name }) => name === variant) ?? assert.fail(variant);
    const [user = '', group = ''] = one(stage, 'USER').text.split(':');
    assert.match(user, /^[1-9]\d*$/);
    assert.match(group, /^[1-9]\d*$/);
    assert.equal(stage.instructions.at(-1)?.keyword, 'HEALTHCHECK');
    assert.deepEqual(one(stage, 'HEALTHCHECK').words?.slice(0, 2), ['node', 'healthcheck.ts']);
  }
  for (const name of names) {
    const stage = last(await stagesOf(name));
    assert.equal(stage.from, 'runtime');
    // Nothing is run in what is shipped: it is the base and copies.
    for (const { keyword } of stage.instructions)
      assert.ok(!['USER', 'RUN', 'ENTRYPOINT', 'SHELL'].includes(keyword));
    assert.equal(one(stage, 'CMD').words?.[0], 'node');
    for (const label of ['title', 'description', 'version', 'revision', 'licenses'])
      assert.match(one(stage, 'LABEL').text, new RegExp(`org\\.opencontainers\\.image\\.${label}="`));
  }
});

for (const name of names) {
  test(`${name}: installs its workspace by the lock file, from sources that are there`, async () => {
    const stages = await stagesOf(name);
    const [build = assert.fail()] = stages;
    const commands = build.instructions.filter(({ keyword }) => keyword === 'RUN').map(({ text }) => text);
    assert.equal(commands[0], `npm ci --omit=dev --workspace=${workspaces[name]}`);
    assert.equal(commands.at(-1), 'node deploy/images/gather-workspaces.ts /image');
    const closure = await workspaceClosure(workspaces[name]);
    const copied = repositorySources(build);
    for (const folder of closure)
      assert.ok(
        copied.some((source) => folder === source || folder.startsWith(`${source}/`)),
        folder,
      );
    for (const source of stages.flatMap(repositorySources))
      assert.ok(
        context.some((file) => file === source || file.startsWith(`${source}/`)),
        `${source} is not there, or .dockerignore keeps it out`,
      );
    // ONNX Runtime's package has the libraries of every platform.
    assert.equal(
      commands.some((text) => text.startsWith('node deploy/images/fit-onnx-runtime.ts ')),
      closure.includes('packages/tensor-graph'),
    );
    const files = await inImage(name);
    const entry = one(last(stages), 'CMD').words?.at(-1) ?? '';
    assert.ok(files.includes(entry), entry);
    assert.deepEqual(
      files.filter((file) => /\.test\.ts$|\/testing\/|\/fixtures\//.test(file)),
      [],
    );
  });
}

test('the build file has every image, and the CUDA variant of those that the chart has one of', async () => {
  const { target, group } = await bakeFile();
  for (const name of names) {
    assert.equal(target[name]?.dockerfile, `deploy/images/${name}.Containerfile`);
    assert.ok(group['cpu']?.targets.includes(name));
  }
  for (const name of ['generator', 'reward', 'trainer']) {
    const cuda = target[`${name}-cuda`];
    assert.equal(cuda?.dockerfile, `deploy/images/${name}.Containerfile`);
    assert.equal(cuda.contexts?.['runtime'], 'target:runtime-cuda');
    assert.match(cuda.tags?.[0] ?? '', /-cuda$/);
    assert.ok(group['cuda']?.targets.includes(`${name}-cuda`));
  }
});

test('every image and program that the chart names is there', async () => {
  const built = await builtImages();
  const seen = new Set<string>();
  for (const example of examples) {
    for (const object of objectsIn(await render({ values: [exampleFile(example)], upgrade: true }))) {
      const pod = podOf(object);
      for (const container of [...(pod?.initContainers ?? []), ...(pod?.containers ?? [])]) {
        const image = String(container['image']).replace('registry.example/plumb/', '');
        if (!image.startsWith('plumb-')) continue;
        assert.ok(built.has(image), image);
        const command = z.array(z.string()).optional().parse(container['command']);
        if (command === undefined) continue;
        const name = names.find((known) => image.startsWith(`plumb-${known}:`)) ?? assert.fail(image);
        assert.equal(command[0], 'node');
        assert.ok((await inImage(name)).includes(command[1] ?? ''), `${image}: ${command.join(' ')}`);
        seen.add(command[1] ?? '');
      }
    }
  }
  assert.deepEqual([...seen].toSorted(), [
    'packages/media/bin/preload.ts',
    'services/loop/migrate.ts',
    'services/reward/score-check.ts',
  ]);
  assert.ok((await inImage('trainer')).includes('services/trainer/job.ts'));
});
