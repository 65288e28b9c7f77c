/** The model card of toybox-clip. */

import type { RetrievalResult } from './evaluate.ts';
import { framesPerClip } from './clip-pixels.ts';
import { size } from './towers.ts';
import type { StageSettings } from './train.ts';

/** What a card tells. */
export interface CardFacts {
  readonly seed: string;
  readonly weights: { readonly vision: number; readonly text: number };
  readonly stages: Readonly<Record<'contrastive' | 'pickscore' | 'hpsv2', StageSettings>>;
  readonly minutes: number;
  readonly retrieval: RetrievalResult;
  /** Share of pushed things whose direction `clip_score` gets right. */
  readonly direction: number;
  /** Accuracy on held-out pairs, by score. */
  readonly preference: Readonly<Record<'clip_score' | 'pickscore' | 'hpsv2', number>>;
  readonly pairs: number;
}

const percent = (share: number): string => `${(100 * share).toFixed(1)}%`;

/** The card as Markdown. */
export function modelCard(facts: CardFacts): string {
  const { retrieval, preference, stages, weights } = facts;
  const stage = ({ steps, batch, learningRate }: StageSettings, what: string): string =>
    `${steps.toLocaleString('en-GB')} steps of ${batch} ${what}, AdamW at ${learningRate}`;
  return `# Model card: toybox-clip

A small CLIP for the toybox, made by Plumb's own engine so that \`clip_score\`, \`pickscore\` and \`hpsv2\` run with no download.
A vision transformer of ${weights.vision.toLocaleString('en-GB')} weights embeds one frame of ${size.picture}x${size.picture}, a text transformer of ${weights.text.toLocaleString('en-GB')} weights the caption; a clip's
score is the mean over ${framesPerClip} frames, each seen by itself, of the cosine with the caption. It does not see the order of frames.

| file | reward | how it was trained |
|---|---|---|
| \`vision.onnx\` | \`clip_score\` | with the text tower, on captions and clips that do what they say: symmetric contrastive loss (arXiv 2103.00020); ${stage(stages.contrastive, 'pairs')} |
| \`pickscore-vision.onnx\` | \`pickscore\` | all of the tower, from \`vision.onnx\`, on preferences: loss of PickScore (arXiv 2305.01569); ${stage(stages.pickscore, 'pairs')} |
| \`hpsv2-vision.onnx\` | \`hpsv2\` | as \`pickscore\`, but the projection alone: a weaker preference model beside it; ${stage(stages.hpsv2, 'pairs')} |
| \`text.onnx\`, \`tokenizer.json\` | all three | with \`vision.onnx\` |

A preference is a clip that the referee accepts for a caption and one that it rejects; a quarter of the rejected clips show another
caption, the others do their own wrongly. The 40 held-out prompts were not trained on, in any stage.

## Measured on held-out captions

| | |
|---|---|
| retrieval: a clip finds its caption among ${retrieval.captions}, first | ${percent(retrieval.at1)} of ${retrieval.clips} clips (chance ${percent(1 / retrieval.captions)}) |
| among the first five | ${percent(retrieval.at5)} |
| left told from right, when something is pushed | ${percent(facts.direction)} (chance 50%) |
| accepted over rejected clip, \`clip_score\` | ${percent(preference.clip_score)} of ${facts.pairs} pairs (chance 50%) |
| \`pickscore\` | ${percent(preference.pickscore)} |
| \`hpsv2\` | ${percent(preference.hpsv2)} |

What single frames do not show is hidden from them: \`pushing ... to the left\` and \`to the right\` are the same frames in another
order. That is what a CLIP is, and why it is a weak judge of motion: these models measure appearance and alignment.

**Made by** \`node packages/toybox-clip/bin/train.ts\`, seed \`${facts.seed}\`, ${facts.minutes} minutes on one core that others used too; settings and hashes in \`manifest.json\`.
**Intended use**: the default of the Reward API in the embedded system, tests and studies. **Not for** anything outside of the toybox.
`;
}
