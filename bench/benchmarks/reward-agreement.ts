/**
 * How well each shipped reward agrees with the referee, on clips of held-out captions that were rendered right or wrong:
 * ROC AUC, by what is wrong. 0.5 says nothing of it, 1 orders every accepted clip above every rejected one. The verdicts of
 * `aif` are the referee's own, so it is 1 by construction and not listed.
 *
 *     npm run bench -- reward-agreement [--json]
 */

import { fileURLToPath } from 'node:url';
import { rocAuc } from '@plumb/evaluation';
import { openReward, readRewardDefinitions } from '@plumb/rewards';
import type { RewardInput } from '@plumb/rewards';
import { heldOutCaptions } from '@plumb/toybox-clip';
import { parseCaption, referee, renderClip, wrongnessesOf } from '@plumb/toybox';
import { printBench } from '../print-bench.ts';

/** Right clips of each caption, and as many of another caption; there is one of each kind of wrongness besides. */
const clipsPerCaption = 4;

interface Judged extends RewardInput {
  readonly accepted: boolean;
}

const behaviour: Judged[] = [];
const alignment: Judged[] = [];
let seed = 50_000_000;
for (const [index, caption] of heldOutCaptions.entries()) {
  const judged = (shown: string, wrongness: Parameters<typeof renderClip>[0]['wrongness']): Judged => {
    seed += 1;
    const clip = renderClip({ caption: shown, wrongness, seed });
    return { clip, prompt: caption, accepted: referee(clip, caption).accept };
  };
  for (let copy = 0; copy < clipsPerCaption; copy += 1) {
    const right = judged(caption, null);
    behaviour.push(right);
    alignment.push(right);
    const other = heldOutCaptions[(index + 7 * (copy + 1)) % heldOutCaptions.length] ?? caption;
    alignment.push(judged(other, null));
  }
  for (const wrongness of wrongnessesOf(parseCaption(caption))) behaviour.push(judged(caption, wrongness));
}

const figures: Record<string, number> = {
  behaviour_clips: behaviour.length,
  behaviour_accepted: behaviour.filter(({ accepted }) => accepted).length,
  alignment_clips: alignment.length,
  alignment_accepted: alignment.filter(({ accepted }) => accepted).length,
};
const folder = fileURLToPath(new URL('../../rewards', import.meta.url));
for (const located of await readRewardDefinitions(folder)) {
  const { name, kind } = located.definition;
  if (kind === 'ai-feedback') continue;
  const reward = await openReward(located, { form: 'worker', intraOpThreads: 1 });
  for (const [set, clips] of Object.entries({ behaviour, alignment })) {
    const started = performance.now();
    const results = await reward.score(clips);
    figures[`${name}_${set}_ms_per_clip`] = (performance.now() - started) / clips.length;
    const scores = results.map((result) => {
      if ('error' in result) throw result.error;
      return result.score.value;
    });
    const auc = rocAuc(
      clips.map(({ accepted }) => accepted),
      scores,
    );
    if (auc !== null) figures[`${name}_${set}_auc`] = auc;
  }
  await reward.close();
}
printBench({ bench: 'reward-agreement', ratios: {}, figures }, process.argv.includes('--json'));
