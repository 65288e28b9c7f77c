import assert from 'node:assert/strict';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { after, before, test } from 'node:test';
import { openCluster } from './cluster.ts';

let folder: string;

before(async () => {
  folder = await mkdtemp(path.join(tmpdir(), 'plumb-kubeconfig-'));
});

after(async () => {
  await rm(folder, { recursive: true, force: true });
});

/** A kubeconfig with two contexts, of which `production` names a namespace. */
async function kubeconfig(change: Record<string, unknown> = {}): Promise<string> {
  const file = path.join(folder, 'kubeconfig');
  await writeFile(
    file,
    JSON.stringify({
      apiVersion: 'v1',
      kind: 'Config',
      clusters: [{ name: 'one', cluster: { server: 'https://kubernetes.example:6443' } }],
      users: [{ name: 'me', user: { token: 'secret' } }],
      contexts: [
        { name: 'production', context: { cluster: 'one', user: 'me', namespace: 'video' } },
        { name: 'bare', context: { cluster: 'one', user: 'me' } },
      ],
      'current-context': 'production',
      ...change,
    }),
  );
  return file;
}

test('the namespace is the one given, else that of the context, else default', async () => {
  const file = await kubeconfig();
  assert.equal((await openCluster({ kubeconfig: file })).namespace, 'video');
  assert.equal((await openCluster({ kubeconfig: file, context: 'bare' })).namespace, 'default');
  assert.equal((await openCluster({ kubeconfig: file, namespace: 'mine' })).namespace, 'mine');
});

test('what cannot be used is refused with the setting and the fix', async () => {
  const refusals: readonly [options: Parameters<typeof openCluster>[0], says: RegExp][] = [
    [{}, /runs in no pod of Kubernetes; set PLUMB_KUBECONFIG/],
    [{ kubeconfig: path.join(folder, 'none') }, /PLUMB_KUBECONFIG is '.*none', which cannot be read/],
    [
      { kubeconfig: await kubeconfig(), context: 'staging' },
      /PLUMB_KUBE_CONTEXT.*is 'staging'; use one of production, bare/,
    ],
  ];
  for (const [options, says] of refusals) {
    await assert.rejects(openCluster(options), { reason: 'CONFIGURATION_INVALID', message: says });
  }
});

test('plain http is refused, with the server and without what its address may hold', async () => {
  const clusters = [{ name: 'one', cluster: { server: 'http://me:secret@kubernetes.example:8080/path' } }];
  await assert.rejects(openCluster({ kubeconfig: await kubeconfig({ clusters }) }), (error: Error) => {
    assert.match(error.message, /names http:\/\/kubernetes\.example:8080, which is not encrypted/);
    assert.doesNotMatch(error.message, /secret/);
    return true;
  });
});
