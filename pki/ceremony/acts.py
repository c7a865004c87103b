"""Which act a step of a script is."""

from __future__ import annotations

from typing import Any, Final

from pki.ceremony import script
from pki.ceremony.crl_act import SignCrlAct
from pki.ceremony.desk import Act
from pki.ceremony.people_acts import AttendAct, CheckAct, CloseAct, HandOverAct, InspectAct
from pki.ceremony.script import Step
from pki.ceremony.sign_acts import CertifyAct, ReceiveAct
from pki.ceremony.token_acts import (
    ChangePinAct,
    DestroyKeyAct,
    InitialiseTokenAct,
    MakeKeyAct,
    RestoreKeyAct,
    ShareSecretAct,
)

_ACTS: Final[dict[type[Step], Act[Any]]] = {
    script.Attend: AttendAct(),
    script.Check: CheckAct(),
    script.Inspect: InspectAct(),
    script.ShareSecret: ShareSecretAct(),
    script.InitialiseToken: InitialiseTokenAct(),
    script.ChangePin: ChangePinAct(),
    script.MakeKey: MakeKeyAct(),
    script.RestoreKey: RestoreKeyAct(),
    script.DestroyKey: DestroyKeyAct(),
    script.Receive: ReceiveAct(),
    script.Certify: CertifyAct(),
    script.SignCrl: SignCrlAct(),
    script.HandOver: HandOverAct(),
    script.Close: CloseAct(),
}


def act_of(step: Step) -> Act[Any]:
    """The act of a step."""
    return _ACTS[type(step)]
