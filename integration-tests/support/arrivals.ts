/** Things that arrive one by one, and waiting for them. */
export class Arrivals<T> {
  readonly all: T[] = [];
  #next = Promise.withResolvers<void>();

  add(thing: T): void {
    this.all.push(thing);
    this.#next.resolve();
    this.#next = Promise.withResolvers<void>();
  }

  /** Resolves when so many of those that match have arrived. The test's timeout is the limit. */
  async reach(count: number, matches: (thing: T) => boolean): Promise<void> {
    while (this.all.filter(matches).length < count) await this.#next.promise;
  }
}
