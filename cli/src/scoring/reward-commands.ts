/** What `plumb rewards` does. */

import { toJson } from '@bufbuild/protobuf';
import type { DescMessage, MessageShape } from '@bufbuild/protobuf';
import { durationMs } from '@bufbuild/protobuf/wkt';
import Table from 'cli-table3';
import { fromStatus, internal } from '@plumb/kit/errors';
import type { RpcClient } from '@plumb/kit/rpc';
import {
  ListRewardsResponseSchema,
  ReloadRewardsResponseSchema,
  RewardHealth,
  RewardService,
  ShadowReportSchema,
} from '@plumb/proto/plumb/reward/v1/reward_pb.js';
import type { Reward, ShadowReport } from '@plumb/proto/plumb/reward/v1/reward_pb.js';
import type { ConnectionOptions } from '../commands/connection-options.ts';
import { withService } from '../with-service.ts';

/** Options that all of them take. */
export interface RewardsOptions extends ConnectionOptions {
  readonly state: string;
  readonly json?: true;
}

type Client = RpcClient<typeof RewardService>;

/** Does some work with the reward service; gives the exit code. */
async function withRewards(
  options: RewardsOptions,
  work: (client: Client, signal: AbortSignal | undefined) => Promise<void>,
): Promise<number> {
  const needs = {
    service: RewardService,
    name: 'reward',
    only: ['nats-server', 'referee', 'judge', 'reward'],
    command: 'rewards',
  } as const;
  return await withService(needs, options, work);
}

function print<Schema extends DescMessage>(
  options: RewardsOptions,
  schema: Schema,
  message: MessageShape<Schema>,
  text: () => string,
): void {
  const shown = options.json === true ? JSON.stringify(toJson(schema, message)) : text();
  process.stdout.write(`${shown}\n`);
}

/** `plumb rewards list` */
export async function listRewards(options: RewardsOptions): Promise<number> {
  return await withRewards(options, async (client, signal) => {
    const response = await client.listRewards({}, { signal });
    print(options, ListRewardsResponseSchema, response, () => rewardTable(response.rewards));
  });
}

/** `plumb rewards shadow` */
export async function showShadow(name: string, options: RewardsOptions): Promise<number> {
  return await withRewards(options, async (client, signal) => {
    const { report } = await client.getShadowReport({ name }, { signal });
    if (report === undefined) throw internal(new Error('the service gave no report'));
    print(options, ShadowReportSchema, report, () => shadowTable(report));
  });
}

/** `plumb rewards reload` */
export async function reloadRewards(options: RewardsOptions): Promise<number> {
  let refused = false;
  const exitCode = await withRewards(options, async (client, signal) => {
    const changes = await client.reloadRewards({}, { signal });
    refused = Object.keys(changes.refused).length > 0;
    print(options, ReloadRewardsResponseSchema, changes, () => {
      const lines = [
        ...changes.added.map((name) => `added      ${name}`),
        ...changes.exchanged.map((name) => `exchanged  ${name}`),
        ...changes.removed.map((name) => `removed    ${name}`),
        ...Object.entries(changes.refused).map(
          ([name, status]) => `refused    ${name}: ${fromStatus(status).message}`,
        ),
      ];
      return lines.length === 0 ? 'nothing has changed' : lines.join('\n');
    });
  });
  return exitCode === 0 && refused ? 1 : exitCode;
}

function rewardTable(rewards: readonly Reward[]): string {
  const table = new Table({
    head: ['reward', 'version', 'range', 'better', 'health', 'waiting', 'shadow', 'what it says'],
    colWidths: [null, null, null, null, null, null, null, 60],
    wordWrap: true,
    style: { head: [], border: [] },
  });
  for (const reward of rewards) {
    table.push([
      reward.name,
      reward.version,
      `${reward.minimum ?? ''}..${reward.maximum ?? ''}`,
      reward.higherIsBetter ? 'higher' : 'lower',
      reward.health === RewardHealth.SERVING ? 'serving' : 'down',
      String(reward.waiting),
      reward.shadowed ? 'yes' : '',
      reward.health === RewardHealth.SERVING ? reward.description : reward.healthReason,
    ]);
  }
  return table.toString();
}

function shadowTable(report: ShadowReport): string {
  const number = (value: number | undefined): string => (value === undefined ? '' : value.toPrecision(4));
  const table = new Table({ style: { head: [], border: [] } });
  table.push(
    ['reward', `${report.name} ${report.version}`],
    ['candidate', report.candidateVersion],
    ['compared', String(report.compared)],
    ['identical', String(report.identical)],
    ['only the reward failed', String(report.rewardErrors)],
    ['only the candidate failed', String(report.candidateErrors)],
    ['skipped', String(report.skipped)],
    ['mean difference', number(report.meanDifference)],
    ['mean absolute difference', number(report.meanAbsoluteDifference)],
    ['largest absolute difference', number(report.largestAbsoluteDifference)],
    ['correlation', number(report.correlation)],
    ['same order', number(report.sameOrder)],
    ['ms a batch', report.inference === undefined ? '' : number(durationMs(report.inference))],
    [
      'ms a batch, candidate',
      report.candidateInference === undefined ? '' : number(durationMs(report.candidateInference)),
    ],
  );
  return table.toString();
}
