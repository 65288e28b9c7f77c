import type { DescMethod } from '@bufbuild/protobuf';
import { signal } from '@preact/signals';
import { loop } from '../api.ts';

/** The calls that whoever looks may make; undefined until the service has said so. */
const callable = signal<ReadonlySet<string> | undefined>(undefined);

/** Asks who calls and what may be called. @throws what the call throws, also for a token that does not hold */
export async function askCaller(): Promise<void> {
  const { methods } = await loop.getCaller({});
  callable.value = new Set(methods);
}

/** Whether whoever looks may make a call. What would be refused is not offered. */
export function may(method: DescMethod): boolean {
  return callable.value?.has(`${method.parent.typeName}/${method.name}`) ?? false;
}
