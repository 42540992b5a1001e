"""What the API server checks of spec.podTemplate: as Kubernetes checks the Pods that come of it.

The patterns are those of Kubernetes' validation (k8s.io/apimachinery, util/validation).
"""

from __future__ import annotations

from slm_operator.api.rules import Rule, about, rule, text

DNS_LABEL = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"
SUBDOMAIN = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?([.][a-z0-9]([-a-z0-9]*[a-z0-9])?)*$"
LABEL_VALUE = r"^([A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)?$"
QUALIFIED_NAME = (
    r"^([a-z0-9]([-a-z0-9]*[a-z0-9])?([.][a-z0-9]([-a-z0-9]*[a-z0-9])?)*/)?"
    r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?$"
)
RESOURCE_NAME = (
    r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?([.][a-z0-9]([-a-z0-9]*[a-z0-9])?)*/"
    r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?$"
)
QUANTITY = r"^[0-9]{1,12}([.][0-9]{1,3})?(m|k|M|G|T|Ki|Mi|Gi|Ti)?$"

MODEL_MOUNT = "/mnt/model"
"""Where pvc:// and oci:// models are mounted."""
TOKEN_MOUNT = "/run/slm"  # noqa: S105 - a directory
"""Where the token of the agent's API is mounted."""
TOKEN_VOLUME = "agent-token"  # noqa: S105 - a name
TOKEN_SECRET_SUFFIX = "-agent-token"  # noqa: S105 - the end of names
"""Of the Secrets that hold agents' tokens, after the service's name."""
OWN_MOUNTS = ("/tmp", "/dev", "/proc", "/sys", MODEL_MOUNT, TOKEN_MOUNT)  # noqa: S108 - inside the container
OWN_VOLUMES = ("tmp", "shm", "model", TOKEN_VOLUME)
OWN_LABEL_KEYS = (
    "app.kubernetes.io/instance",
    "app.kubernetes.io/managed-by",
    "app.kubernetes.io/name",
    "serving.slm.dev/pack",
)

_NAMES = " || ".join(f"'{key}' in self" for key in OWN_LABEL_KEYS)


def _of_form(pattern: str, remedy: str) -> Rule:
    """Of a text; the API server says which field it is."""
    said = text(f"': {remedy}")
    return rule(f"self.matches('{pattern}')", f'"it is \'" + self + {said}')


OBJECT_NAME = _of_form(
    SUBDOMAIN, "a name in Kubernetes has lower case letters, digits, dashes and dots: correct it"
)
NOT_A_TOKEN = rule(
    f"!self.endsWith('{TOKEN_SECRET_SUFFIX}')",
    '"it is \'" + self + '
    + text(
        f"': Secrets whose names end with {TOKEN_SECRET_SUFFIX} hold the tokens by which the "
        "operator commands packs: name another Secret"
    ),
)
"""Who may create services, but read no Secrets, shall not come by the tokens of the others."""
NOT_OF_THE_SYSTEM = rule(
    "!self.startsWith('system-')",
    '"it is \'" + self + '
    + text(
        "': the system's own classes let a pack displace what keeps the node alive: name another "
        "PriorityClass"
    ),
)
LABEL_TEXT = _of_form(
    LABEL_VALUE,
    "a label's value has letters, digits, dashes, dots and underscores, and begins and ends with a "
    "letter or digit: correct it",
)
TAINT_KEY = _of_form(
    QUALIFIED_NAME, "write NAME or DOMAIN/NAME as in the node's taint, such as nvidia.com/gpu"
)
RESOURCE = _of_form(
    RESOURCE_NAME, "write DOMAIN/NAME as the device plugin does, such as nvidia.com/gpu"
)
SECRET_KEY = _of_form(
    "^([-_a-zA-Z0-9]|[.][-_a-zA-Z0-9])[-._a-zA-Z0-9]*$",
    "a Secret's keys have letters, digits, dashes, dots and underscores: correct it",
)
MODEL_TEXT = _of_form(
    "^[A-Za-z0-9][A-Za-z0-9._/-]*$",
    "use letters, digits, dots, underscores, dashes and slashes, with a letter or digit first",
)
VOLUME_FORM = _of_form(DNS_LABEL, "use lower case letters, digits and dashes")
AMOUNT = rule(
    f"string(self).matches('{QUANTITY}')",
    text("it is no quantity of Kubernetes: write a number, such as 4, 500m or 16Gi"),
)


def _keys(field: str) -> Rule:
    """Of a map whose keys Kubernetes takes for qualified names; a prefix in capitals is no name."""
    return rule(
        f"self.all(key, key.matches('{QUALIFIED_NAME}') && key.size() <= 253)",
        text(
            f"spec.podTemplate.{field} has a key that Kubernetes does not take: write NAME or "
            "DOMAIN/NAME, such as example.com/team, with at most 63 letters, digits, dashes, dots "
            "and underscores in NAME"
        ),
    )


LABELS = (
    rule(
        f"!({_NAMES})",
        text(
            f"spec.podTemplate.labels has one of {', '.join(OWN_LABEL_KEYS)}, by which the "
            "operator finds its packs: remove it"
        ),
    ),
    _keys("labels"),
)

ANNOTATIONS = (
    rule(
        "!('serving.slm.dev/template-hash' in self)",
        text(
            "spec.podTemplate.annotations has serving.slm.dev/template-hash, by which the operator "
            "knows its packs' template: remove it"
        ),
    ),
    _keys("annotations"),
)

NODE_SELECTOR_KEYS = _keys("nodeSelector")

TOLERATION = (
    rule(
        "has(self.key) || self.operator == 'Exists'",
        text(
            "spec.podTemplate.tolerations has an entry without key whose operator is Equal: set "
            "key, or set operator to Exists to bear every taint"
        ),
    ),
    rule(
        "!has(self.value) || self.value == '' || self.operator == 'Equal'",
        "'spec.podTemplate.tolerations has value ' + self.value + ' with operator Exists, which "
        "bears any value: remove value, or set operator to Equal'",
        path=".value",
    ),
    rule(
        "!has(self.tolerationSeconds) || (has(self.effect) && self.effect == 'NoExecute')",
        text(
            "spec.podTemplate.tolerations has tolerationSeconds without effect NoExecute, the only "
            "one that ends packs: set effect to NoExecute, or remove tolerationSeconds"
        ),
        path=".tolerationSeconds",
    ),
)


def _within(name: str, selected: str) -> Rule:
    both = (
        f"has(self.requests) && has(self.limits) && has(self.requests.{selected}) "
        f"&& has(self.limits.{selected})"
    )
    return rule(
        # A number may stand for its text, so both are made one.
        f"!({both}) || quantity(string(self.requests.{selected}))"
        f".compareTo(quantity(string(self.limits.{selected}))) <= 0",
        f"'spec.podTemplate.resources.requests.{name} is ' + string(self.requests.{selected}) + "
        f"', above limits.{name}, ' + string(self.limits.{selected}) + ': lower the one or raise "
        "the other'",
        path=".requests",
    )


REQUESTS_WITHIN_LIMITS = (
    _within("cpu", "cpu"),
    _within("memory", "memory"),
    # CEL writes a dash in a field's name so.
    _within("ephemeral-storage", "ephemeral__dash__storage"),
)

ONE_SOURCE = rule(
    "(has(self.persistentVolumeClaim) ? 1 : 0) + (has(self.configMap) ? 1 : 0) "
    "+ (has(self.secret) ? 1 : 0) + (has(self.emptyDir) ? 1 : 0) == 1",
    "'spec.podTemplate.volumes ' + self.name + ' has no source, or several: set one of "
    "persistentVolumeClaim, configMap, secret, emptyDir'",
)

VOLUME_NAME = rule(
    f"!(self in {list(OWN_VOLUMES)!r})",
    about("spec.podTemplate.volumes name", "the operator has a volume of that name: use another"),
)

MOUNT_PATH = (
    rule(
        # By a detour, such as /./tmp, the next rule would not know the operator's own.
        "self.matches('^(/[A-Za-z0-9._@+=-]+)+$') && !self.matches('/[.][.]?(/|$)')",
        about(
            "spec.podTemplate.volumes mountPath",
            "use an absolute path without . and .., such as /models",
        ),
    ),
    rule(
        f"!{list(OWN_MOUNTS)!r}.exists(own, self == own || self.startsWith(own + '/'))",
        about(
            "spec.podTemplate.volumes mountPath",
            f"{', '.join(OWN_MOUNTS)} are the operator's or the system's: use another path, such "
            "as /models",
        ),
    ),
)

MOUNTS = rule(
    "self.all(a, self.exists_one(b, a.mountPath == b.mountPath))",
    text("spec.podTemplate.volumes has one mountPath twice: give each volume a path of its own"),
)
