"""Many runs at once, each in a sandbox of its own: `python many_at_once.py`."""

import asyncio

from casemate import AsyncCasemate, Outcome


async def main() -> None:
    """Counts in eight sandboxes."""
    async with AsyncCasemate() as casemate:

        async def count(number: int) -> Outcome:
            return await casemate.run(f"print(sum(range({number})))")

        outcomes = await asyncio.gather(*(count(number) for number in range(0, 800, 100)))
    print([int(outcome.check().stdout) for outcome in outcomes])


asyncio.run(main())
