/** Writes the golden clips of the shipped rewards: `node packages/toybox-clip/bin/write-golden-clips.ts`. */

import { mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { encodeClip } from '@plumb/media';
import { renderClip } from '@plumb/toybox';
import type { ClipRequest } from '@plumb/toybox';

const folder = fileURLToPath(new URL('../../../rewards/golden', import.meta.url));
const clips: Readonly<Record<string, ClipRequest>> = {
  'falls.png': { caption: 'the red ball falls to the ground', wrongness: null, seed: 1 },
  'floats.png': { caption: 'the red ball falls to the ground', wrongness: 'floating', seed: 2 },
  'vanishes.png': { caption: 'pushing the green triangle to the left', wrongness: 'vanishing', seed: 3 },
  'turns-colour.png': { caption: 'squeezing the blue block', wrongness: 'colour-change', seed: 4 },
};
await mkdir(folder, { recursive: true });
for (const [name, request] of Object.entries(clips)) {
  await writeFile(join(folder, name), await encodeClip(renderClip(request)));
}
