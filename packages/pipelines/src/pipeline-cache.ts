import { mkdir, mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';

/** A folder that pipelines are unpacked in. */
export interface PipelineCache {
  readonly path: string;
  /** Removes the folder if it was made for this process alone. */
  remove(): Promise<void>;
}

/** @param folder kept between starts; a fresh one, which nobody else can write to, unless given */
export async function pipelineCache(folder: string | undefined): Promise<PipelineCache> {
  if (folder === undefined) {
    const own = await mkdtemp(join(tmpdir(), 'plumb-pipelines-'));
    return { path: own, remove: () => rm(own, { recursive: true, force: true }) };
  }
  const path = resolve(folder);
  await mkdir(path, { recursive: true });
  return { path, remove: () => Promise.resolve() };
}
