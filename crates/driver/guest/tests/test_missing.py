"""Stand-ins for missing functions give what the originals give."""

import hashlib
import unittest

from .support import needs_libraries


@needs_libraries
class Missing(unittest.TestCase):
    def test_key_derivation(self):
        from casemate_guest.missing import pbkdf2_hmac

        for name, rounds, length in (("sha256", 1, None), ("sha1", 1000, 25), ("sha512", 7, 200)):
            expected = hashlib.pbkdf2_hmac(name, b"password", b"salt", rounds, length)
            self.assertEqual(pbkdf2_hmac(name, b"password", b"salt", rounds, length), expected)
        for rounds, length in ((0, 8), (1, 0)):
            with self.assertRaises(ValueError):
                pbkdf2_hmac("sha1", b"", b"", rounds, length)


if __name__ == "__main__":
    unittest.main()
