"""The judge's prompts.

They are this library's own, because the paper prints none for its GPT-4o-mini scores. Scores from
other prompts are not comparable, so a report prints the prompt in full. A changed prompt also
changes the keys of the judge's cache: all images would be paid for again.
"""

TRY_ON = """\
You are a strict judge of virtual try-on. The first picture shows a garment. The second picture \
was generated: it should show a person who wears exactly that garment. Score the second picture.

Look for, in this order:
1. The garment (half of the score): the same kind of garment, cut, length, sleeves and neckline; \
the same colours; the same pattern, print, logo and lettering at the right size and place.
2. The fit (a quarter): it lies on the body as cloth would, follows the pose, folds and is hidden \
where it should be, with no rest of another garment, no holes, no blurred seams.
3. The picture (a quarter): one whole, natural person (face, hands, limbs), sharp, evenly lit, \
without artefacts.

Pose, person, background and everything else that is worn are free. White margins do not count.

The scale: 10 cannot be told from a photo of this garment being worn; 8 small flaws on close look; \
6 plainly the same garment with visible errors; 4 a similar garment, or a badly damaged one; 2 \
another garment; 0 no garment or no person to be seen. Halves are allowed.

Answer with one JSON object and nothing else: \
{"score": <number from 0 to 10>, "reason": "<one sentence of at most 30 words>"}"""

TRY_OFF = """\
You are a strict judge of virtual try-off, which recovers a garment as a shop would show it. The \
first picture is the shop's own picture of a garment. The second picture was generated from a \
photo of somebody wearing it: it should show exactly that garment alone. Score the second picture.

Look for, in this order:
1. The garment (half of the score): the same kind of garment, cut, length, sleeves, neckline and \
closures; the same colours; the same pattern, print, logo and lettering at the right size and place.
2. The form (a quarter): laid out flat or as if on an invisible body, seen from the front, whole, \
symmetric where the garment is, with no folds, shadows or missing parts left over from being worn.
3. The picture (a quarter): nothing but the garment on a plain background (no skin, hair, hanger \
or other garment), sharp, evenly lit, without artefacts.

White margins do not count, nor does where in the picture the garment lies.

The scale: 10 could replace the shop's picture; 8 small flaws on close look; 6 plainly the same \
garment with visible errors; 4 a similar garment, or a badly damaged one; 2 another garment; 0 no \
garment to be seen. Halves are allowed.

Answer with one JSON object and nothing else: \
{"score": <number from 0 to 10>, "reason": "<one sentence of at most 30 words>"}"""

# setting of a scores file -> prompt
PROMPTS = {"paired": TRY_ON, "unpaired": TRY_ON, "multi_pose": TRY_ON, "try_off": TRY_OFF}

GARMENT_LABEL = "First picture, the garment:"
GENERATED_LABEL = "Second picture, generated:"

RETRY_PROMPT = """\
That answer could not be used: {why}. Answer again with one JSON object and nothing else: \
{{"score": <number from 0 to 10>, "reason": "<one sentence>"}}"""
