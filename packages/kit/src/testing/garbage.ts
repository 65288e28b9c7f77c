import { setImmediate } from 'node:timers/promises';
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';

/** True once a thing is gone; false if something still holds it after several full collections. */
export async function isCollected(reference: WeakRef<object>): Promise<boolean> {
  setFlagsFromString('--expose-gc');
  const collect = runInNewContext('gc') as () => void;
  for (let round = 0; round < 10; round++) {
    // A reference that was looked at holds its thing until the current job ends.
    await setImmediate();
    collect();
    if (reference.deref() === undefined) return true;
  }
  return false;
}
