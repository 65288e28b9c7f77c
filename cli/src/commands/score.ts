import { durationMs } from '@bufbuild/protobuf/wkt';
import Table from 'cli-table3';
import { Command } from 'commander';
import { fromStatus, invalidArgument, PlumbError } from '@plumb/kit/errors';
import type { RewardOutcome } from '@plumb/proto/plumb/reward/v1/reward_pb.js';
import { addConnectionOptions } from './connection-options.ts';
import type { ConnectionOptions } from './connection-options.ts';
import { stateOption } from './options.ts';

interface ScoreOptions extends ConnectionOptions {
  readonly prompt: string;
  readonly reward: readonly string[];
  readonly state: string;
  readonly json?: true;
}

/** `plumb score`: what the rewards say of clips. */
export function scoreCommand(finish: (exitCode: number) => void): Command {
  const command = new Command('score')
    .description('score clips with rewards')
    .argument('<clip...>', 'files: .mp4 and .webm (where ffmpeg is installed), .webp, .gif, .png (animated)')
    .requiredOption('--prompt <text>', 'what the clips shall show')
    .option(
      '--reward <name>',
      'a reward to ask; may be repeated; all that serve unless given',
      (name: string, earlier: readonly string[]) => [...earlier, name],
      [] as readonly string[],
    )
    .addOption(stateOption());
  return addConnectionOptions(command, 'a reward service that runs elsewhere')
    .option('--json', 'print it as one JSON object, the last line of standard output')
    .addHelpText(
      'after',
      '\nAsks the reward service of the system that runs in the state folder, or starts one for the time of the call.\nExit code 1 if any clip could not be scored.',
    )
    .action(async (files: readonly string[], options: ScoreOptions) => {
      const { withService } = await import('../with-service.ts');
      const { clipFile } = await import('../scoring/clip-file.ts');
      const { RewardHealth, RewardService } = await import('@plumb/proto/plumb/reward/v1/reward_pb.js');
      if (files.length > 64) throw invalidArgument('clip', `are ${files.length} files; give at most 64`);
      const items = await Promise.all(
        files.map(async (file, index) => ({
          id: String(index),
          video: await clipFile(file),
          prompt: { text: options.prompt },
        })),
      );
      let failed = false;
      const needs = {
        service: RewardService,
        name: 'reward',
        only: ['nats-server', 'referee', 'judge', 'reward'],
        command: 'score',
      } as const;
      const exitCode = await withService(needs, options, async (client, signal) => {
        const { rewards } = await client.listRewards({}, { signal });
        const serving = rewards
          .filter(({ health }) => health === RewardHealth.SERVING)
          .map(({ name }) => name);
        const names = options.reward.length > 0 ? [...options.reward] : serving;
        const response = await client.score({ rewards: names, items }, { signal });
        const clips = response.items.map(({ outcomes }, index) => ({
          file: files[index] ?? '',
          scores: outcomes.map((outcome) => entryOf(outcome)),
        }));
        failed = clips.some(({ scores }) => scores.some((score) => 'error' in score));
        process.stdout.write(
          `${options.json === true ? JSON.stringify({ prompt: options.prompt, clips }) : tableOf(clips)}\n`,
        );
      });
      finish(exitCode === 0 && failed ? 1 : exitCode);
    });
}

function entryOf({ reward, version, weightsHash, outcome, timings, cached }: RewardOutcome) {
  const ms = timings?.total === undefined ? 0 : durationMs(timings.total);
  const shared = { reward, version, weightsHash, ms, cached };
  if (outcome.case === 'score') {
    const { value, details, reason, failureMode, checks } = outcome.value;
    return { ...shared, value, details, reason, failureMode, checks };
  }
  const error =
    outcome.value?.status === undefined
      ? new PlumbError({ code: 'INTERNAL', reason: 'REMOTE_ERROR', message: 'the service gave no outcome' })
      : fromStatus(outcome.value.status);
  return { ...shared, error: { code: error.code, reason: error.reason, message: error.message } };
}

/** What is wrong with the clip itself is said once and not by each reward. */
function shortened(scores: readonly ReturnType<typeof entryOf>[]): readonly ReturnType<typeof entryOf>[] {
  const [first] = scores;
  if (first === undefined || scores.length < 2 || !('error' in first)) return scores;
  const alike = scores.every((score) => 'error' in score && score.error.message === first.error.message);
  return alike ? [{ ...first, reward: 'all' }] : scores;
}

function tableOf(
  clips: readonly { readonly file: string; readonly scores: readonly ReturnType<typeof entryOf>[] }[],
) {
  const table = new Table({
    head: ['clip', 'reward', 'value', 'details', 'ms'],
    colAligns: ['left', 'left', 'right', 'left', 'right'],
    colWidths: [null, null, null, 64, null],
    wordWrap: true,
    style: { head: [], border: [] },
  });
  for (const { file, scores } of clips) {
    for (const score of shortened(scores)) {
      const time = `${score.ms.toFixed(1)}${score.cached ? ' (cached)' : ''}`;
      if ('error' in score) {
        table.push([file, score.reward, 'error', `${score.error.code}: ${score.error.message}`, time]);
        continue;
      }
      const details = Object.entries(score.details).map(([name, value]) => `${name} ${value.toPrecision(4)}`);
      const words = [...details, score.failureMode, score.reason].filter((text) => text !== '');
      table.push([file, score.reward, score.value.toPrecision(6), words.join('; '), time]);
    }
  }
  return table.toString();
}
