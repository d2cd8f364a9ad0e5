"""Functions this build of the standard library leaves out, written over those it has."""

import hashlib
import hmac


def pbkdf2_hmac(hash_name, password, salt, iterations, dklen=None):
    """`hashlib.pbkdf2_hmac` (RFC 8018, section 5.2), which CPython builds on OpenSSL alone."""
    if iterations < 1:
        raise ValueError("iteration value must be greater than 0.")
    keyed = hmac.new(bytes(password), None, hash_name)
    length = keyed.digest_size if dklen is None else dklen
    if length < 1:
        raise ValueError("key length must be greater than 0.")

    def code(message):
        one = keyed.copy()
        one.update(message)
        return one.digest()

    derived = b""
    block = 0
    while len(derived) < length:
        block += 1
        last = code(bytes(salt) + block.to_bytes(4))
        mixed = int.from_bytes(last)
        for _ in range(iterations - 1):
            last = code(last)
            mixed ^= int.from_bytes(last)
        derived += mixed.to_bytes(keyed.digest_size)
    return derived[:length]


def install():
    """Add what is missing. Called once, in the guest, before the snapshot."""
    if not hasattr(hashlib, "pbkdf2_hmac"):
        hashlib.pbkdf2_hmac = pbkdf2_hmac
