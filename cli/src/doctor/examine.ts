import {
  checkArtifacts,
  checkBroker,
  checkDatabase,
  checkDevices,
  checkJudges,
  checkKubernetes,
  checkModels,
  checkRewards,
  checkServices,
} from './checks.ts';
import { findDeployment } from './deployment.ts';
import type { Finding } from './finding.ts';

/**
 * Looks at every part of a deployment, at all of them at once.
 * @throws PlumbError FAILED_PRECONDITION where there is no deployment to look at
 */
export async function examine(
  stateFolder: string,
  env: Readonly<Record<string, string | undefined>>,
): Promise<{ readonly where: string; readonly findings: readonly Finding[] }> {
  const deployment = await findDeployment(stateFolder, env);
  try {
    const findings = await Promise.all([
      checkBroker(deployment),
      checkArtifacts(deployment),
      checkDatabase(deployment),
      checkServices(deployment),
      checkRewards(deployment),
      checkJudges(deployment),
      checkModels(deployment),
      checkDevices(),
      checkKubernetes(deployment),
    ]);
    return { where: deployment.where, findings: findings.flat() };
  } finally {
    deployment.credentials.close();
  }
}
