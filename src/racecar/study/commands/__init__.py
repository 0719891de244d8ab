"""The ``racecar`` commands, one file each: ``parser()`` says what it takes, ``run(parser, options)`` does it."""
