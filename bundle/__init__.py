"""The bundle: what every other part of this package agrees on.

Contract of the graphs, manifest, engine records, class labels, errors, and files that are written
whole or not at all. It imports nothing else of this package, and everything else may import it.
docs/bundle.md specifies the format.
"""

from garment_transfer.bundle._contract import (
    FRAMING as FRAMING,
    MAPS as MAPS,
    STAGES as STAGES,
    Framing as Framing,
    Signature as Signature,
    Size as Size,
    Stage as Stage,
    Tensor as Tensor,
    chained as chained,
    contract as contract,
    differences as differences,
    maps_contract as maps_contract,
)
from garment_transfer.bundle._errors import (
    BackendError as BackendError,
    BundleError as BundleError,
    Code as Code,
    EngineError as EngineError,
    ExportError as ExportError,
    GarmentTransferError as GarmentTransferError,
    InputError as InputError,
    OutputError as OutputError,
    reason_of as reason_of,
)
from garment_transfer.bundle._files import (
    as_path as as_path,
    cache_folder as cache_folder,
    check_writable as check_writable,
    kind_of as kind_of,
    read_json as read_json,
    remove_unfinished as remove_unfinished,
    replacing as replacing,
    replacing_folder as replacing_folder,
)
from garment_transfer.bundle._json import (
    InvalidFile as InvalidFile,
    Number as Number,
    Share as Share,
    now as now,
    read_struct as read_struct,
)
from garment_transfer.bundle._labels import (
    BACKGROUND as BACKGROUND,
    CLASSES as CLASSES,
    FACE as FACE,
    GARMENT as GARMENT,
    HAIR as HAIR,
    IGNORED as IGNORED,
    LABEL_SETS as LABEL_SETS,
    LEGS as LEGS,
    LOWER as LOWER,
    NUM_PARTS as NUM_PARTS,
    SKIN as SKIN,
    ColourMap as ColourMap,
    LabelSet as LabelSet,
    border_width as border_width,
    label_set as label_set,
    voc_colour as voc_colour,
)
from garment_transfer.bundle._manifest import (
    MANIFEST as MANIFEST,
    PRECISIONS as PRECISIONS,
    SCHEMA_VERSION as SCHEMA_VERSION,
    Accuracy as Accuracy,
    Bundle as Bundle,
    Checkpoint as Checkpoint,
    Graph as Graph,
    Manifest as Manifest,
    OtherPrecision as OtherPrecision,
    Parity as Parity,
    Precision as Precision,
    sha256_of as sha256_of,
    write_manifest as write_manifest,
)
from garment_transfer.bundle._record import (
    DEFAULT_OPTIMIZATION_LEVEL as DEFAULT_OPTIMIZATION_LEVEL,
    ENGINE_BACKENDS as ENGINE_BACKENDS,
    ENGINES as ENGINES,
    RECORD_VERSION as RECORD_VERSION,
    RTX_COMPUTE_CAPABILITIES as RTX_COMPUTE_CAPABILITIES,
    Batch as Batch,
    EngineBackend as EngineBackend,
    EngineRecord as EngineRecord,
    EngineSet as EngineSet,
    Plugin as Plugin,
    PluginChoice as PluginChoice,
    StageEngine as StageEngine,
    build_command as build_command,
    engine_folder as engine_folder,
    find_engines as find_engines,
    list_engines as list_engines,
    must_be_copied as must_be_copied,
    sm_name as sm_name,
    write_record as write_record,
)
from garment_transfer.bundle._version import (
    installed_versions as installed_versions,
    package_version as package_version,
)
