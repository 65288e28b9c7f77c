/**
 * Writes into reward definitions what they give their golden clips now, and the hashes of the files that they name:
 * `node packages/rewards/bin/record-golden.ts rewards/clip_score.yaml ...`
 */

import { readFile, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { isMap, parseDocument, visit } from 'yaml';
import type { Document } from 'yaml';
import { openReward, readRewardDefinition, scoreGoldenClips } from '../src/index.ts';
import { hashFile } from '../src/read-definitions.ts';

/** Gives every `sha256` beside a `file` the hash of that file. */
async function recordHashes(document: Document, folder: string): Promise<void> {
  const found: { file: string; set: (hash: string) => void }[] = [];
  visit(document, {
    Map(_, map) {
      const file = map.get('file');
      if (typeof file === 'string') found.push({ file, set: (hash) => map.set('sha256', hash) });
    },
  });
  for (const { file, set } of found) set(await hashFile(join(folder, file)));
}

/** Line breaks only where they are in the file. */
const layout = { lineWidth: 0 } as const;

for (const path of process.argv.slice(2)) {
  const document = parseDocument(await readFile(path, 'utf8'));
  await recordHashes(document, dirname(path));
  await writeFile(path, document.toString(layout));
  const located = await readRewardDefinition(path);
  // A verdict is the judge's to give; its golden values are written by hand.
  if (located.definition.kind === 'ai-feedback') continue;
  const reward = await openReward(located, { checkGolden: false });
  const values = await scoreGoldenClips(located, (inputs) => reward.score(inputs));
  await reward.close();
  for (const [index, value] of values.entries()) {
    const entry = document.getIn(['golden', index]);
    if (isMap(entry)) entry.set('value', value);
  }
  await writeFile(path, document.toString(layout));
  process.stdout.write(`${path}: ${values.join(', ')}\n`);
}
