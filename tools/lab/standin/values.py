"""How the real host's parsers read a value: booleans, whole numbers, time spans, addresses, enumerations."""

from __future__ import annotations

import datetime
import re
from typing import Any
from urllib.parse import urlsplit

_RESOURCE_NAMES = """
Account ActivityDefinition AdverseEvent AllergyIntolerance Appointment AppointmentResponse AuditEvent Basic
Binary BiologicallyDerivedProduct BodyStructure Bundle CapabilityStatement CarePlan CareTeam CatalogEntry
ChargeItem ChargeItemDefinition Claim ClaimResponse ClinicalImpression CodeSystem Communication
CommunicationRequest CompartmentDefinition Composition ConceptMap Condition Consent Contract Coverage
CoverageEligibilityRequest CoverageEligibilityResponse DetectedIssue Device DeviceDefinition DeviceMetric
DeviceRequest DeviceUseStatement DiagnosticReport DocumentManifest DocumentReference DomainResource
EffectEvidenceSynthesis Encounter Endpoint EnrollmentRequest EnrollmentResponse EpisodeOfCare EventDefinition
Evidence EvidenceVariable ExampleScenario ExplanationOfBenefit FamilyMemberHistory Flag Goal GraphDefinition
Group GuidanceResponse HealthcareService ImagingStudy Immunization ImmunizationEvaluation
ImmunizationRecommendation ImplementationGuide InsurancePlan Invoice Library Linkage List Location Measure
MeasureReport Media Medication MedicationAdministration MedicationDispense MedicationKnowledge MedicationRequest
MedicationStatement MedicinalProduct MedicinalProductAuthorization MedicinalProductContraindication
MedicinalProductIndication MedicinalProductIngredient MedicinalProductInteraction MedicinalProductManufactured
MedicinalProductPackaged MedicinalProductPharmaceutical MedicinalProductUndesirableEffect MessageDefinition
MessageHeader MolecularSequence NamingSystem NutritionOrder Observation ObservationDefinition
OperationDefinition OperationOutcome Organization OrganizationAffiliation Parameters Patient PaymentNotice
PaymentReconciliation Person PlanDefinition Practitioner PractitionerRole Procedure Provenance Questionnaire
QuestionnaireResponse RelatedPerson RequestGroup ResearchDefinition ResearchElementDefinition ResearchStudy
ResearchSubject Resource RiskAssessment RiskEvidenceSynthesis Schedule SearchParameter ServiceRequest Slot
Specimen SpecimenDefinition StructureDefinition StructureMap Subscription Substance SubstanceNucleicAcid
SubstancePolymer SubstanceProtein SubstanceReferenceInformation SubstanceSourceMaterial SubstanceSpecification
SupplyDelivery SupplyRequest Task TerminologyCapabilities TestReport TestScript ValueSet VerificationResult
VisionPrescription
"""
FHIR_RESOURCES = frozenset(_RESOURCE_NAMES.split())

_SPAN = re.compile(r"^\s*(-)?(?:(\d+)|(?:(\d+)\.)?(\d{1,2}):(\d{1,2})(?::(\d{1,2})(?:\.\d{1,7})?)?)\s*$")
_DURATION = re.compile(
    r"^-?P(?=.)(?:(\d+)Y)?(?:(\d+)M)?(?:(\d+)D)?(?:T(?=.)(?:(\d+)H)?(?:(\d+)M)?(?:(\d+)(?:\.\d+)?S)?)?$"
)


def timespan(text: str) -> datetime.timedelta | None:
    """Read a .NET TimeSpan: `[d.]hh:mm[:ss]`; a bare integer means DAYS; None when it is neither (an ISO duration)."""
    found = _SPAN.match(text)
    if not found:
        return None
    minus, days, more_days, hours, minutes, seconds = found.groups()
    if days is not None:
        span = datetime.timedelta(days=int(days))
    else:
        if int(hours) > 23 or int(minutes) > 59 or int(seconds or 0) > 59:
            return None
        span = datetime.timedelta(
            days=int(more_days or 0), hours=int(hours), minutes=int(minutes), seconds=int(seconds or 0)
        )
    return -span if minus else span


def duration(text: str) -> datetime.timedelta | None:
    """Read an xs:duration (`P90D`, `PT1H`), a year as 365 days, a month as 30, as .NET does; None if none."""
    found = _DURATION.match(text.strip())
    if not found:
        return None
    years, months, days, hours, minutes, seconds = (int(part or 0) for part in found.groups())
    return datetime.timedelta(days=365 * years + 30 * months + days, hours=hours, minutes=minutes, seconds=seconds)


def integer(text: str) -> int | None:
    """Read a .NET Int32; None when it is none."""
    if not re.fullmatch(r"\s*[+-]?\d+\s*", text):
        return None
    number = int(text)
    return number if -(2**31) <= number < 2**31 else None


def boolean(text: str, how: str = "") -> bool | None:
    """Read a boolean as XmlConvert (`how` says so: true false 1 0, exact case) or Boolean.TryParse do; None if none."""
    if "XmlConvert" in how:
        return {"true": True, "false": False, "1": True, "0": False}.get(text.strip())
    return {"true": True, "false": False}.get(text.strip().lower())


def address(text: str) -> bool:
    """Tell whether the text is an absolute URI with a host."""
    try:
        parts = urlsplit(text)
        _ = parts.port
    except ValueError:
        return False
    return bool(re.fullmatch(r"[A-Za-z][A-Za-z0-9+.-]*", parts.scheme)) and bool(parts.netloc) and " " not in text


def schemes(allowed: list[str]) -> set[str]:
    """Return the schemes that a list of address patterns such as `llp://host:port` names."""
    return {pattern.split("://", 1)[0].lower() for pattern in allowed if "://" in pattern}


def problem(setting: dict[str, Any], value: str) -> str | None:
    """Return what the setting's own parser has against `value`, None when it takes it.

    `setting` is an entry of features.yml. Types whose check needs more than the value (keys, policies, lists with an
    action per item) are taken here and judged in startup.py.
    """
    kind, how = setting.get("type"), str(setting.get("parse") or "")
    allowed = setting.get("allowed")
    if kind == "uri":
        if not address(value):
            return f"{value!r} is not an absolute URI"
        known = schemes(allowed) if isinstance(allowed, list) else set()
        if known and urlsplit(value).scheme.lower() not in known:
            return f"the scheme of {value!r} is none of {', '.join(sorted(known))}"
    elif kind == "bool" and boolean(value, how) is None:
        return f"{value!r} is not a boolean"
    elif kind == "int":
        number = integer(value)
        if number is None:
            return f"{value!r} is not a 32-bit integer"
        bounds = re.fullmatch(r"(\d+)-(\d+)", str(setting.get("range") or ""))
        if bounds and not int(bounds[1]) <= number <= int(bounds[2]):
            return f"{number} is not in {setting['range']}"
    elif kind == "timespan" and timespan(value) is None:
        return f"{value!r} is not a TimeSpan ([d.]hh:mm:ss; ISO durations are rejected)"
    elif kind in {"enum", "flags"} and isinstance(allowed, list):
        names = [str(name) for name in allowed]
        parts = [part.strip() for part in value.split(",")] if kind == "flags" else [value]
        if setting.get("case") == "ignore":
            names, parts = [name.lower() for name in names], [part.lower() for part in parts]
        if "digits" in how and re.fullmatch(r"[0-5]", value):
            return None
        if any(part not in names for part in parts):
            return f"{value!r} is none of {', '.join(str(name) for name in allowed)} (case matters)"
    elif kind == "list":
        items = value.split(str(setting.get("separator") or ";"))
        if isinstance(allowed, list) and setting.get("case") == "exact":
            wrong = [item for item in items if item.split("=")[0] not in allowed]
        elif setting.get("name") == "SDB_FHIR_RESOURCE":
            wrong = [item for item in items if item not in FHIR_RESOURCES]
        else:
            wrong = []
        if wrong:
            return f"{wrong[0]!r} is not known (items are not trimmed, case matters)"
    elif kind == "hostport" and not re.fullmatch(r"[^:\s]+:\d+", value):
        return f"{value!r} is not host:port"
    return None
