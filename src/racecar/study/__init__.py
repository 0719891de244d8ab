"""The paper's experiments: protocol, runs, report and command line. Needs the ``[study]`` extra; imports ``racecar``,
never the other way round.
"""
