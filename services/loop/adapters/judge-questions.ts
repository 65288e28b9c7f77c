import { PlumbError } from '@plumb/kit/errors';
import type { RpcClient } from '@plumb/kit/rpc';
import { Purpose } from '@plumb/proto/plumb/judge/v1/judge_pb.js';
import type { JudgeService } from '@plumb/proto/plumb/judge/v1/judge_pb.js';
import type { Video } from '@plumb/proto/plumb/media/v1/video_pb.js';
import type { Prompt } from '@plumb/proto/plumb/prompts/v1/prompt_pb.js';
import type { RewardService } from '@plumb/proto/plumb/reward/v1/reward_pb.js';
import { z } from 'zod';

/** What a judge was asked: the words, and the pictures as data: URLs. */
export interface JudgeQuestion {
  readonly reward: string;
  readonly words: string[];
  readonly pictures: string[];
}

/** The questions that rewards put to judges about a clip, or why they cannot be told. */
export type JudgeQuestions = (
  rewards: readonly string[],
  video: Video,
  prompt: Prompt,
) => Promise<{ readonly questions: JudgeQuestion[]; readonly missing: string }>;

export const noJudgeQuestions: JudgeQuestions = () =>
  Promise.resolve({
    questions: [],
    missing:
      'this loop service knows no judge or no reward service; set PLUMB_JUDGE_ADDRESS and PLUMB_REWARD_ADDRESS',
  });

// A chat completion's body, as far as it is shown.
const textPart = z.object({ type: z.literal('text'), text: z.string() });
const picturePart = z.object({ type: z.literal('image_url'), image_url: z.object({ url: z.string() }) });
const body = z.object({
  messages: z.array(
    z.object({
      content: z.union([z.string(), z.array(z.discriminatedUnion('type', [textPart, picturePart]))]),
    }),
  ),
});

/** Asks the reward service which judge a reward asks, and that judge for its words and pictures. No endpoint is asked. */
export function judgeQuestionsOf(
  rewards: RpcClient<typeof RewardService>,
  judges: RpcClient<typeof JudgeService>,
): JudgeQuestions {
  return async (names, video, prompt) => {
    try {
      const questions: JudgeQuestion[] = [];
      for (const name of names) {
        const { reward } = await rewards.getReward({ name });
        if (reward === undefined || reward.judge === '') continue;
        const { requestBodies } = await judges.judge({
          judge: reward.judge,
          video,
          prompt,
          purpose: Purpose.EVALUATION,
          explainOnly: true,
        });
        questions.push(...requestBodies.map((text) => questionOf(name, text)));
      }
      return { questions, missing: questions.length === 0 ? 'no judge was asked about this clip' : '' };
    } catch (thrown) {
      return { questions: [], missing: PlumbError.from(thrown).message };
    }
  };
}

function questionOf(reward: string, text: string): JudgeQuestion {
  const words: string[] = [];
  const pictures: string[] = [];
  for (const { content } of body.parse(JSON.parse(text)).messages) {
    if (typeof content === 'string') {
      words.push(content);
      continue;
    }
    for (const part of content) {
      if (part.type === 'text') words.push(part.text);
      else if (part.image_url.url.startsWith('data:image/')) pictures.push(part.image_url.url);
    }
  }
  return { reward, words, pictures };
}
