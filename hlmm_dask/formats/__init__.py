"""Results as files that other programs take: GWAS-SSF, ldsc, regenie, GWAS-VCF."""
