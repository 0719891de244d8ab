"""Somebody's images: found, described in one line, decoded.

:mod:`.find` is the way in: it asks the layouts (:mod:`.folders` on a :mod:`.tree`, :mod:`.labels_file`, :mod:`.hub`,
:mod:`.shards`) what lies there, :mod:`.splits` and :mod:`.labels` what is trained on and measured, and answers with
:mod:`.found`, which holds :mod:`.rows` that are not decoded yet. :mod:`.survey` looks at them, :mod:`.pixels` decodes
one.

:mod:`.seen` puts that together. Then :mod:`.load` decodes all into memory (:mod:`.decoded`), or has :mod:`.decoders` do
it on the way (:mod:`.streamed`); both are :mod:`.labelled` images. :mod:`.fitting` chooses by what fits.
"""
