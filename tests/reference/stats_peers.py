#!/usr/bin/env python3
"""Writes what SciPy, scikit-learn, statsmodels, pingouin, scikit-image and the code of DeLong's fast algorithm (Sun and
Xu,
packaged as rocauc-comparison) say of made-up cases: stats_peers.py FILE.json [CASES]. tests/stats_reference.lua
compares.

tests/reference/stats_peers.json was written with two cases of each kind by scipy 1.17.1, scikit-learn 1.9.1,
statsmodels
0.15.0, pingouin 0.7.0, scikit-image 0.26.0, rocauc-comparison 0.1.1; `./bootstrap parity statistics` writes twenty.
"""

import json
import sys
import warnings

import numpy as np
import pandas as pd
import pingouin
import statsmodels.api as sm
import statsmodels.formula.api as smf
from rocauc_comparison.delong import compute_ground_truth_statistics, fastDeLong
from scipy import optimize, stats
from scipy.cluster.hierarchy import linkage
from scipy.spatial.distance import squareform
from skimage.metrics import structural_similarity
from sklearn import metrics
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.proportion import proportion_confint

warnings.filterwarnings("ignore")


def plain(x):
    """Numbers and lists for JSON; 17 digits."""
    return np.asarray(x, dtype=float).tolist()


def short(rng, shape, digits=3):
    return np.round(rng.random(shape), digits)


def distributions(rng):
    z, df, d1, d2 = rng.normal() * 3, rng.uniform(1, 60), rng.integers(1, 9), rng.integers(2, 80)
    x, k = rng.uniform(0.1, 30), int(rng.integers(2, 16))
    return dict(
        z=z,
        df=df,
        d1=int(d1),
        d2=int(d2),
        x=x,
        k=k,
        p_z=2 * stats.norm.sf(abs(z)),
        p_t=2 * stats.t.sf(abs(z), df),
        q_t=stats.t.ppf(0.975, df),
        q_z=stats.norm.ppf(x / 31),
        p_f=stats.f.sf(x, d1, d2),
        p_chi=stats.chi2.sf(x, d1),
        q_range=stats.studentized_range.ppf(0.95, k, np.inf),
    )


def mean_over_patients(rng):
    """Cluster-robust standard error of a mean: with statsmodels' small-sample factor it is U/(U-1)."""
    groups = np.sort(rng.integers(0, 14, 40))
    values = short(rng, 40) + 0.05 * groups
    fit = sm.OLS(values, np.ones(40)).fit(cov_type="cluster", cov_kwds=dict(groups=groups))
    return dict(values=plain(values), groups=groups.tolist(), mean=fit.params[0], se=fit.bse[0])


def tests(rng):
    d = np.round(rng.normal(0.3, 1, 11), 2)
    signs = stats.permutation_test((d,), np.sum, permutation_type="samples", n_resamples=np.inf).pvalue
    b, c = int(rng.integers(0, 12)), int(rng.integers(1, 20))
    ps = short(rng, 7, 4) / 5
    hits, n = int(rng.integers(0, 31)), 30
    low, high = proportion_confint(hits, n, method="wilson")
    scipys = stats.binomtest(hits, n).proportion_ci(method="wilson")
    assert abs(scipys.low - low) < 1e-9 and abs(scipys.high - high) < 1e-9
    return dict(
        differences=plain(d),
        signs=signs,
        b=b,
        c=c,
        mcnemar=mcnemar([[0, b], [c, 0]], exact=True).pvalue,
        ps=plain(ps),
        holm=plain(multipletests(ps, method="holm")[1]),
        hits=hits,
        n=n,
        wilson=[low, high],
    )


def delong(rng):
    y = (np.arange(40) % 3 == 0).astype(int)
    a, b = np.round(rng.normal(0.8 * y, 1), 1), np.round(rng.normal(0.5 * y, 1), 1)
    order, m = compute_ground_truth_statistics(y)
    aucs, cov = fastDeLong(np.vstack((a, b))[:, order], m)
    se = np.sqrt(cov[0, 0] + cov[1, 1] - 2 * cov[0, 1])
    assert abs(aucs[0] - metrics.roc_auc_score(y, a)) < 1e-12
    return dict(y=y.tolist(), a=plain(a), b=plain(b), aucs=plain(aucs), se_a=np.sqrt(cov[0, 0]), se=se,
                p=2 * stats.norm.sf(abs(aucs[0] - aucs[1]) / se))


def calibration(rng):
    logits = np.round(rng.normal(size=(30, 3)), 2)
    y = np.array([rng.choice(3, p=np.exp(1.4 * z) / np.exp(1.4 * z).sum()) for z in logits])
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    odds = np.log(p[:, 0] / (1 - p[:, 0]))
    hit = (y == 0).astype(int)
    fit = sm.GLM(hit, sm.add_constant(odds), family=sm.families.Binomial()).fit(tol=1e-14)
    offset = sm.GLM(hit, np.ones(30), offset=odds, family=sm.families.Binomial()).fit(tol=1e-14)

    def nll(temperature):
        q = np.exp(logits / temperature)
        return metrics.log_loss(y, q / q.sum(1, keepdims=True), labels=[0, 1, 2])

    best = optimize.minimize_scalar(nll, bounds=(0.05, 20), method="bounded", options=dict(xatol=1e-10))
    top, right = p.max(1), (p.argmax(1) == y).astype(float)
    edges = np.ceil(top * 15 - 1e-12).astype(int)
    width = sum(abs((right - top)[edges == g].sum()) for g in range(16)) / 30
    mass = sum(abs((right - top)[g].sum()) for g in np.array_split(np.argsort(top, kind="stable"), 7)) / 30
    brier = sum(metrics.brier_score_loss((y == c).astype(int), p[:, c]) for c in range(3))
    return dict(
        logits=plain(logits),
        y=y.tolist(),
        nll=nll(1),
        brier=brier,
        slope=fit.params[1],
        intercept=fit.params[0],
        intercept_at_1=offset.params[0],
        temperature=best.x,
        nll_at_best=best.fun,
        ece_width=width,
        ece_mass=mass,
    )


def rankings(rng):
    blocks = short(rng, (9, 4), 1)  # with ties
    chi2, p = stats.friedmanchisquare(*blocks.T)
    table = pd.DataFrame(
        [(i, j, v) for i, row in enumerate(blocks) for j, v in enumerate(row)], columns=["s", "w", "v"]
    )
    by_f = pingouin.friedman(table, dv="v", within="w", subject="s", method="f").iloc[0]
    ranks = np.array([stats.rankdata(-row) for row in blocks]).mean(0)
    return dict(blocks=plain(blocks), chi2=chi2, p=p, w=by_f["W"], f=by_f["F"], ranks=plain(ranks))


def seeds(rng):
    rows = np.round(short(rng, (6, 1)) + 0.1 * short(rng, (1, 4)) + 0.05 * short(rng, (6, 4)), 3)
    table = pd.DataFrame([(i, s, v) for i, row in enumerate(rows) for s, v in enumerate(row)], columns=["i", "s", "v"])
    ms = sm.stats.anova_lm(smf.ols("v ~ C(i) + C(s)", table).fit())["mean_sq"]
    return dict(rows=plain(rows), ms=[ms["C(i)"], ms["C(s)"], ms["Residual"]])


def similarity(rng):
    a, b = short(rng, (14, 18), 1), short(rng, (14, 18), 1)
    ssim = structural_similarity(a, b, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=1)
    distance = short(rng, (6, 6))
    distance = np.triu(distance, 1) + np.triu(distance, 1).T
    joins = linkage(squareform(distance), method="average")
    few, other = short(rng, 12, 1), short(rng, 12, 1)
    energy = short(rng, 20)
    return dict(
        a=plain(a.ravel()),
        b=plain(b.ravel()),
        spearman=stats.spearmanr(a.ravel(), b.ravel()).statistic,
        ssim=ssim,
        few=plain(few),
        other=plain(other),
        tau_b=stats.kendalltau(few, other).statistic,
        distance=plain(distance),
        heights=plain(joins[:, 2]),
        sizes=plain(joins[:, 3]),
        energy=plain(energy),
        entropy=stats.entropy(energy) / np.log(20),
        pearson=np.corrcoef(few, other)[0, 1],
    )


def readers(rng):
    a = rng.integers(1, 6, 16)
    b = np.clip(a + rng.integers(-1, 2, 16), 1, 5)
    table = pd.DataFrame(
        [(i, r, v) for r, list_ in enumerate((a, b)) for i, v in enumerate(list_)], columns=["i", "r", "v"]
    )
    icc = pingouin.intraclass_corr(table, targets="i", raters="r", ratings="v")
    icc = icc.set_index("Type")["ICC"]
    name = "ICC2" if "ICC2" in icc.index else "ICC(A,1)"
    return dict(a=a.tolist(), b=b.tolist(), kappa=metrics.cohen_kappa_score(a, b, weights="quadratic"), icc=icc[name])


def main(path, cases):
    kinds = [distributions, mean_over_patients, tests, delong, calibration, rankings, seeds, similarity, readers]
    out = {
        kind.__name__: [kind(np.random.default_rng([case, k])) for case in range(cases)] for k, kind in enumerate(kinds)
    }
    with open(path, "w") as f:
        json.dump(out, f)
        f.write("\n")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 2)
