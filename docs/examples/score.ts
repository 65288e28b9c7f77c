/** Scores clips through the Reward API: node docs/examples/score.ts localhost:50051 "a red ball falls" clip.gif ... */
import { readFile } from 'node:fs/promises';
import path from 'node:path';
import { connectReward } from '@plumb/client';

const mediaTypes: Readonly<Record<string, string>> = {
  '.gif': 'image/gif',
  '.webp': 'image/webp',
  '.png': 'image/apng',
  '.mp4': 'video/mp4',
  '.webm': 'video/webm',
};
const [address = 'localhost:50051', text = '', ...clips] = process.argv.slice(2);
const { PLUMB_CA: ca, PLUMB_TOKEN_FILE: tokenFile } = process.env;

const client = await connectReward({ address, ca, tokenFile });
try {
  const rewards = (await client.listRewards()).map(({ name }) => name);
  const requests = (async function* () {
    for (const clip of clips) {
      const mediaType = mediaTypes[path.extname(clip)];
      if (mediaType === undefined)
        throw new Error(`${clip} is none of ${Object.keys(mediaTypes).join(', ')}`);
      const value = await readFile(clip);
      yield {
        rewards,
        item: {
          id: clip,
          prompt: { text },
          video: { mediaType, source: { case: 'inline' as const, value } },
        },
      };
    }
  })();
  for await (const { id, outcomes } of client.scoreStream(requests, { deadlineMs: 120_000 })) {
    for (const { reward, outcome } of outcomes) {
      const told = outcome.case === 'score' ? outcome.value.value.toFixed(4) : outcome.value?.status?.message;
      process.stdout.write(`${id} ${reward.padEnd(20)} ${told}\n`);
    }
  }
} finally {
  client.close();
}
