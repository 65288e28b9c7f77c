import { hostname } from 'node:os';
import type { ServiceContext } from '@plumb/kit/lifecycle';
import { openCluster } from '@plumb/kubernetes';
import type { z } from 'zod';
import { feedbackRunObjects } from './adapters/kubernetes/feedback-run-objects.ts';
import type { loopSettings } from './config.ts';
import { feedbackRunController } from './feedback-run-controller.ts';
import type { FeedbackRunController } from './feedback-run-controller.ts';
import type { loopService } from './loop-service.ts';
import type { LoopContext } from './reconciler/context.ts';

/**
 * What makes runs of FeedbackRun objects; undefined where the settings do not ask for it.
 * @throws PlumbError CONFIGURATION_INVALID where there is no way to an API server
 */
export async function openFeedbackRuns(
  ctx: ServiceContext,
  config: z.output<typeof loopSettings>,
  loop: LoopContext,
  runs: ReturnType<typeof loopService>,
): Promise<FeedbackRunController | undefined> {
  if (!config.feedbackRuns) return undefined;
  const { kubeconfig, kubeContext, podNamespace, podName } = config;
  const cluster = await openCluster({ kubeconfig, context: kubeContext, namespace: podNamespace });
  const open = () => feedbackRunObjects(cluster, podName ?? hostname());
  return feedbackRunController(loop, runs, open, (error) => {
    ctx.fail(error);
  });
}
