// swift-tools-version: 6.3
import PackageDescription

/// Every target builds under the same rules: language mode 6, strict memory safety, warnings as errors.
let strict: [SwiftSetting] = [
  .strictMemorySafety(),
  .treatAllWarnings(as: .error),
  .enableUpcomingFeature("MemberImportVisibility"),
  .enableUpcomingFeature("InternalImportsByDefault"),
  .enableUpcomingFeature("ExistentialAny"),
  .enableUpcomingFeature("NonisolatedNonsendingByDefault"),
  .enableExperimentalFeature("Lifetimes"),
]

// swift-system: FilePath (names are bytes, not text) and Errno (the system's own words for a failure).
let system: Target.Dependency = .product(name: "SystemPackage", package: "swift-system")

func module(_ name: String, _ dependencies: [Target.Dependency]) -> Target {
  .target(name: name, dependencies: dependencies, swiftSettings: strict)
}

func tests(_ name: String, _ dependencies: [Target.Dependency], resources: [Resource] = []) -> Target {
  .testTarget(name: name, dependencies: dependencies, resources: resources, swiftSettings: strict)
}

func library(_ name: String, _ pkgConfig: String?, apt: String, brew: String) -> Target {
  .systemLibrary(name: name, pkgConfig: pkgConfig, providers: [.apt([apt]), .brew([brew])])
}

func trait(_ name: String, _ target: String) -> Target.Dependency {
  .target(name: target, condition: .when(traits: [name]))
}

let package = Package(
  name: "platter",
  platforms: [.macOS(.v26)],
  products: [
    .library(name: "Platter", targets: ["Platter"]),
    .executable(name: "platter", targets: ["PlatterTool"]),
  ],
  // What a user of the library may leave out, with the C library that it needs. The program and the tests have it all.
  traits: [
    .default(enabledTraits: ["Zstd", "LZMA", "Encryption"]),
    .trait(name: "Zstd", description: "zstd in qcow2 (libzstd)"),
    .trait(name: "LZMA", description: "LZMA in DMG (liblzma)"),
    .trait(name: "Encryption", description: "LUKS, encrypted qcow2 and DMG (libcrypto)"),
  ],
  dependencies: [
    .package(url: "https://github.com/apple/swift-system", from: "1.6.0")
  ],
  targets: [
    // Ground floor: what Swift cannot see of the system, and one module map per C library.
    .target(name: "CPlatter"),
    library("CDeflate", "libdeflate", apt: "libdeflate-dev", brew: "libdeflate"),  // qcow2, VMDK, DMG: deflate
    library("CZlib", "zlib", apt: "zlib1g-dev", brew: "zlib"),  // deflate in pieces, and with a 4 KiB window
    library("CZstd", "libzstd", apt: "libzstd-dev", brew: "zstd"),  // qcow2 compression type 1
    library("CBzip2", nil, apt: "libbz2-dev", brew: "bzip2"),  // DMG: packing; unpacking is ours
    library("CLZMA", "liblzma", apt: "liblzma-dev", brew: "xz"),  // DMG
    library("CCrypto", "libcrypto", apt: "libssl-dev", brew: "openssl@3"),  // LUKS, qcow2, DMG: ciphers and hashes

    module("PlatterCore", ["CPlatter", system]),
    module(
      "PlatterCodecs",
      [
        "PlatterCore", "CPlatter", "CDeflate", "CZlib", trait("Zstd", "CZstd"), "CBzip2", trait("LZMA", "CLZMA"),
      ]),
    module("PlatterCrypto", ["PlatterCore", "CPlatter", trait("Encryption", "CCrypto")]),

    // One room per format; none knows another.
    module("PlatterRaw", ["PlatterCore"]),
    module("PlatterQCOW2", ["PlatterCore", "PlatterCodecs", "PlatterCrypto", system]),
    module("PlatterQED", ["PlatterCore", system]),
    module("PlatterVMDK", ["PlatterCore", "PlatterCodecs", system]),
    module("PlatterVHDX", ["PlatterCore", "PlatterCodecs", system]),
    module("PlatterDMG", ["PlatterCore", "PlatterCodecs", "PlatterCrypto", system]),
    module("PlatterLUKS", ["PlatterCore", "PlatterCrypto", system]),

    // What users import, and the program.
    module(
      "Platter",
      [
        "PlatterCore", "PlatterCodecs", "PlatterCrypto", "PlatterRaw", "PlatterQCOW2", "PlatterQED", "PlatterVMDK",
        "PlatterVHDX", "PlatterDMG", "PlatterLUKS", "CPlatter", system,
      ]),
    .executableTarget(
      name: "PlatterTool", dependencies: ["Platter", "PlatterCore", "CPlatter", system], swiftSettings: strict),

    // Helpers that test targets share: scratch folders, programs, faulty stores, builders of images.
    .target(name: "CTestSupport", path: "Tests/CTestSupport"),
    .target(
      name: "TestSupport", dependencies: ["PlatterCrypto", "PlatterCore", "CCrypto", "CTestSupport", system],
      path: "Tests/TestSupport", swiftSettings: strict),
    // The writer of qcow2 against models, power cuts and faults: for tests, and in large numbers for `make prove`.
    .target(
      name: "WriterProof",
      dependencies: ["Platter", "PlatterCore", "PlatterCodecs", "PlatterQCOW2", "TestSupport", system],
      path: "Tests/WriterProof", swiftSettings: strict),
    tests("TestSupportTests", ["TestSupport", "PlatterCore", system]),
    tests(
      "CorpusTests",
      ["TestSupport", "Platter", "PlatterCore", "CLZMA", "CCrypto", system]),
    tests("InteropTests", ["TestSupport", "WriterProof", "Platter", "PlatterTool", "PlatterCore", system]),
    tests("TidyTests", ["TestSupport", "Platter", "PlatterCore", system]),
    tests("PlatterToolTests", ["PlatterTool", "PlatterCore", "TestSupport", system]),
    tests("PlatterCoreTests", ["PlatterCore", "TestSupport", system]),
    tests(
      "PlatterDMGTests", ["PlatterDMG", "PlatterCodecs", "PlatterCrypto", "PlatterCore", "TestSupport", system]),
    tests("PlatterVHDXTests", ["PlatterVHDX", "PlatterCore", "TestSupport", system]),
    tests(
      "PlatterTests",
      [
        "Platter", "PlatterQCOW2", "PlatterRaw", "PlatterCodecs", "PlatterCore", "TestSupport", "WriterProof", system,
      ]),
    tests("PlatterCodecsTests", ["PlatterCodecs", "PlatterCore", "TestSupport", "CZlib", "CBzip2", "CLZMA"]),
    tests("PlatterQCOW2Tests", ["PlatterQCOW2", "PlatterCore", "TestSupport", system]),
    tests("PlatterRawTests", ["PlatterRaw", "PlatterCore"]),
    tests("PlatterQEDTests", ["PlatterQED", "Platter", "PlatterCore", "TestSupport", system]),
    tests("PlatterVMDKTests", ["PlatterVMDK", "Platter", "PlatterCore", "TestSupport", system]),
    tests("PlatterCryptoTests", ["PlatterCrypto", "PlatterCore", "CCrypto", "TestSupport"]),
    tests("PlatterLUKSTests", ["PlatterLUKS", "PlatterCrypto", "Platter", "PlatterCore", "TestSupport", system]),
  ],
  swiftLanguageModes: [.v6]
)

// Fuzz targets need a flag that ordinary builds must not have:
// PLATTER_FUZZ=1 swift build -c release --sanitize=fuzzer --product fuzz-codecs --scratch-path .build-fuzz
if Context.environment["PLATTER_FUZZ"] != nil {
  func fuzz(_ name: String, _ dependencies: [Target.Dependency]) -> Target {
    .executableTarget(
      name: "fuzz-\(name)", dependencies: dependencies, path: "Fuzz/\(name)", swiftSettings: strict)
  }
  package.targets += [
    .target(name: "FuzzSupport", dependencies: ["PlatterCore"], path: "Fuzz/Support", swiftSettings: strict),
    fuzz("image", ["Platter", "PlatterCore"]),
    fuzz("codecs", ["PlatterCodecs", "PlatterCore"]),
    fuzz("qcow2", ["PlatterQCOW2", "PlatterCore"]),
    fuzz("vhdx", ["FuzzSupport", "PlatterVHDX", "PlatterCodecs", "PlatterCore"]),
    fuzz("qed", ["FuzzSupport", "PlatterQED", "PlatterCore"]),
    fuzz("vmdk", ["FuzzSupport", "PlatterVMDK", "PlatterCore"]),
    fuzz("dmg", ["PlatterDMG", "PlatterCore"]),
    fuzz("write", ["Platter", "PlatterQCOW2", "PlatterCore", "TestSupport"]),
    fuzz("luks", ["PlatterLUKS", "PlatterCrypto", "PlatterCore"]),
  ]
}

// A helper of the benchmarks: PLATTER_TOOLS=1 swift build -c release --product pack-units --scratch-path .build-tools
if Context.environment["PLATTER_TOOLS"] != nil {
  package.targets.append(
    .executableTarget(
      name: "pack-units", dependencies: ["PlatterCodecs", "PlatterCore"], path: "Benchmarks/pack-units",
      swiftSettings: strict))
}

// The proofs in large numbers, in an optimised program of their own: make prove
if Context.environment["PLATTER_PROVE"] != nil {
  package.targets.append(
    .executableTarget(
      name: "prove", dependencies: ["WriterProof", "TestSupport", "Platter", "PlatterCore"], path: "Tests/Prove",
      swiftSettings: strict))
}
