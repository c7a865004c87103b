"""Certificate profiles: what a kind of certificate must, may and must not hold."""

from pki.profile.alternative import apply_alternative_names, check_in_alternative_names
from pki.profile.model import Order, Profile, Sample
from pki.profile.read import load_profiles, parse_profile
from pki.profile.subject import apply_subject
from pki.profile.validity import decide_validity

__all__ = [
    "Order",
    "Profile",
    "Sample",
    "apply_alternative_names",
    "apply_subject",
    "check_in_alternative_names",
    "decide_validity",
    "load_profiles",
    "parse_profile",
]
