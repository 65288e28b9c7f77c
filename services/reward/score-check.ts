/**
 * Scores a clip of its own through a Reward API, as any caller would: what `helm test` runs. Prints the score as a line of
 * JSON; exit code 0 if there is one.
 */

import { connectReward } from '@plumb/client';
import { loadConfig, serviceSettings } from '@plumb/kit/config';
import { describeError, fromStatus, internal, PlumbError } from '@plumb/kit/errors';
import { clipMediaType, encodeClip } from '@plumb/media';
import type { Clip } from '@plumb/media';
import { ValueRange } from '@plumb/proto/plumb/media/v1/video_pb.js';
import { z } from 'zod';

const settings = z.object({
  tlsCa: serviceSettings.tlsCa,
  tlsCert: serviceSettings.tlsCert,
  tlsKey: serviceSettings.tlsKey,
  authTokenFile: serviceSettings.authTokenFile,
  insecurePlaintext: serviceSettings.insecurePlaintext,
  rewardAddress: z.string().min(1).describe('host:port of the reward service'),
  /** One that needs neither a model nor a judge says something of the way there and of nothing else. */
  scoreReward: z.string().min(1).default('motion_floor').describe('the name of a reward'),
  scoreDeadlineSeconds: z.coerce
    .number()
    .positive()
    .max(3600)
    .default(60)
    .describe('seconds, for example 60'),
});

/** A white square that goes from left to right, two pixels a frame. */
function movingSquare(): Clip {
  const [frames, size, side] = [8, 24, 6];
  const data = new Uint8Array(frames * size * size * 3);
  for (let frame = 0; frame < frames; frame++) {
    for (let y = 9; y < 9 + side; y++) {
      const start = 3 * ((frame * size + y) * size + 2 * frame);
      data.fill(255, start, start + 3 * side);
    }
  }
  return { width: size, height: size, frames, fps: 8, data };
}

async function score(): Promise<string> {
  const config = loadConfig(settings, process.env);
  const reward = await connectReward({
    address: config.rewardAddress,
    ca: config.tlsCa,
    cert: config.tlsCert,
    key: config.tlsKey,
    tokenFile: config.authTokenFile,
    insecurePlaintext: config.insecurePlaintext,
    waitForReady: true,
  });
  try {
    const clip = movingSquare();
    const [item] = await reward.score(
      {
        rewards: [config.scoreReward],
        items: [
          {
            id: 'score-check',
            prompt: { text: 'a white square moves from left to right' },
            video: {
              source: { case: 'inline', value: await encodeClip(clip) },
              mediaType: clipMediaType,
              width: clip.width,
              height: clip.height,
              frameCount: clip.frames,
              fps: clip.fps,
              valueRange: ValueRange.UINT8,
            },
          },
        ],
      },
      { deadlineMs: config.scoreDeadlineSeconds * 1000 },
    );
    const outcome = item?.outcomes[0];
    if (outcome === undefined) throw internal(new Error('the service gave no outcome'));
    if (outcome.outcome.case !== 'score') {
      const status = outcome.outcome.value?.status;
      throw status === undefined ? internal(new Error('the service gave no status')) : fromStatus(status);
    }
    const { version } = outcome;
    return JSON.stringify({ reward: outcome.reward, version, value: outcome.outcome.value.value });
  } finally {
    reward.close();
  }
}

try {
  process.stdout.write(`${await score()}\n`);
} catch (thrown) {
  const error = PlumbError.from(thrown);
  process.stderr.write(`score-check: ${describeError(error)}\n`);
  process.exitCode = error.reason === 'CONFIGURATION_INVALID' ? 2 : 1;
}
