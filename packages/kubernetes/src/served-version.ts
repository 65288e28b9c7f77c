import { ApisApi } from '@kubernetes/client-node';
import type { Cluster } from './cluster.ts';
import { fromKubernetes } from './errors.ts';

/**
 * The newest of our versions of an API group that the cluster serves; undefined where it serves none of them.
 * @param known versions that we can speak, the best first
 */
export async function servedVersion(
  cluster: Cluster,
  group: string,
  known: readonly string[],
): Promise<{ readonly version: string | undefined; readonly served: readonly string[] }> {
  let groups;
  try {
    ({ groups } = await cluster.api(ApisApi).getAPIVersions());
  } catch (thrown) {
    throw fromKubernetes(thrown, 'asking for the API groups');
  }
  const served = groups.find(({ name }) => name === group)?.versions.map(({ version }) => version) ?? [];
  return { version: known.find((version) => served.includes(version)), served };
}
