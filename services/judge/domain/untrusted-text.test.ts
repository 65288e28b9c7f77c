import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { captionDelimiters, delimitCaption, escapeUntrusted } from './untrusted-text.ts';

const nasty = fc.oneof(
  fc.string({ unit: 'binary' }),
  fc.string({
    unit: fc.constantFrom(
      '<',
      '>',
      '/',
      '&',
      'lt;',
      'gt;',
      'caption',
      '</caption>',
      '\u200B',
      '\uD800',
      '\n',
      ' ',
    ),
  }),
);

test('escaped text holds no delimiter, no line break and nothing invisible', () => {
  fc.assert(
    fc.property(nasty, (text) => {
      const escaped = escapeUntrusted(text);
      assert.doesNotMatch(escaped, /[<>\p{Cc}\p{Default_Ignorable_Code_Point}\u2028\u2029]/u);
      assert.ok(escaped.isWellFormed());
    }),
  );
});

test('between the delimiters stands one caption, whatever it says', () => {
  fc.assert(
    fc.property(nasty, (text) => {
      const whole = delimitCaption(text);
      assert.equal(whole.split(captionDelimiters.open).length, 2);
      assert.equal(whole.split(captionDelimiters.close).length, 2);
      assert.ok(whole.endsWith(captionDelimiters.close));
    }),
  );
});

test('what was escaped can be read back, for text that can be seen', () => {
  fc.assert(
    fc.property(fc.string({ unit: 'grapheme-ascii' }), (text) => {
      const back = escapeUntrusted(text)
        .replaceAll('&lt;', '<')
        .replaceAll('&gt;', '>')
        .replaceAll('&amp;', '&');
      assert.equal(back, text.trim());
    }),
  );
});
